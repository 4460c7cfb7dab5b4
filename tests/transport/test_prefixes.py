"""Long prompts: who asks first, what samples share, what is told of the server's cache."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from typing import Any

import dspy
import pytest

from dynscale_dspy import BudgetPool, DynScaling, Integrated, Parallel, Sequential, Uniform, explain
from dynscale_dspy.execution.inputs import LONG
from dynscale_dspy.testing import FakeQuestion
from tests.support import needs_lm_errors

QUESTION = FakeQuestion("Which is it?", {"a": 0.5, "b": 0.5}, "a")
LONG_TEXT = QUESTION.text + " It says here: " + "word " * (LONG // 5)


PATIENCE = 0.3
"""Seconds that a held server waits for a request too many."""


def asked(fake: Any, text: str, mode: str, at_once: int = 1, **options: Any) -> tuple[int, int, Any]:
    """Requests that are made while none is answered, ``at_once`` if all is well, those in all, and the prediction."""
    sampling = options.pop("sampling", Parallel())
    qa = DynScaling(
        dspy.Predict("question -> answer"), BudgetPool(per_call=4, policy=Uniform()), sampling=sampling, **options
    )
    found: list[Any] = []

    def call() -> None:
        with dspy.context(lm=fake.lm()):
            if mode == "call":
                found.append(qa(question=text))
            elif mode == "task":
                found.append(asyncio.run(qa.acall(question=text)))
            else:
                found.extend(qa.batch([{"question": text}], num_threads=4, disable_progress_bar=True))

    thread = threading.Thread(target=call)
    with fake.held():
        thread.start()
        fake.wait_until(lambda now: now.requests >= at_once)
        with contextlib.suppress(TimeoutError):
            fake.wait_until(lambda now: now.requests > at_once, PATIENCE)
        first = fake.statistics().requests
    thread.join(20)
    return first, fake.statistics().requests, found[0]


@pytest.mark.parametrize("mode", ["call", "task", "batch"])
def test_the_first_sample_of_a_long_call_leads(mode: str, server: Any) -> None:
    fake = server([QUESTION])
    assert asked(fake, LONG_TEXT, mode, leader=True)[:2] == (1, 4)


@pytest.mark.parametrize(("text", "options"), [(QUESTION.text, {"leader": True}), (LONG_TEXT, {})])
def test_nobody_waits_for_a_short_call_or_unasked(text: str, options: dict[str, Any], server: Any) -> None:
    fake = server([QUESTION])
    first, all_of_them, _ = asked(fake, text, "task", 4, **options)
    assert (first, all_of_them) == (4, 4)


@needs_lm_errors
def test_a_leader_that_fails_is_followed_all_the_same(server: Any) -> None:
    fake = server([QUESTION], fault_rate=1, faults=["500"])
    qa = DynScaling(
        dspy.Predict("question -> answer"), BudgetPool(per_call=4, policy=Uniform()), sampling=Parallel(), leader=True
    )
    with dspy.context(lm=fake.lm()), pytest.raises(Exception, match="500"):
        qa(question=LONG_TEXT)
    assert fake.statistics().requests == 4


@pytest.mark.parametrize("sampling", [Integrated(when="always", width=2), Sequential()])
def test_what_conditioned_samples_share_comes_first(sampling: Any, server: Any) -> None:
    fake = server([QUESTION])
    prediction = asked(fake, LONG_TEXT, "task", sampling=sampling)[2]
    conditioned = [sample for sample in explain(prediction).samples if sample.shown]
    bodies = [body for body in fake.bodies if "earlier_attempts" in body["messages"][-1]["content"]]
    assert len(bodies) == len(conditioned) > 1
    assert len({body["messages"][0]["content"] for body in bodies}) == 1  # the same system message
    texts = [body["messages"][-1]["content"] for body in bodies]
    assert len({text.split("[[ ## earlier_attempts")[0] for text in texts}) == 1
    assert all(LONG_TEXT.strip() in text.split("[[ ## earlier_attempts")[0] for text in texts)


def test_leader_is_checked_and_saved(tmp_path: Any) -> None:
    with pytest.raises(TypeError, match="leader must be True or False, got 1"):
        DynScaling(dspy.Predict("question -> answer"), 2, leader=1)  # type: ignore[arg-type]
    saved = tmp_path / "state.json"
    DynScaling(dspy.Predict("question -> answer"), 2, leader=True).save(saved)
    other = DynScaling(dspy.Predict("question -> answer"), 2)
    other.load(saved)
    assert other.leader is True
