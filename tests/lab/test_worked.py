"""The worked steps that the model in the box is trained on (`examples/lab/worked.py`)."""

import importlib.util
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynscale_dspy.lab.questions import training_question

PATH = Path(__file__).parents[2] / "examples" / "lab" / "worked.py"


@pytest.fixture(scope="module")
def worked() -> Any:
    spec = importlib.util.spec_from_file_location("worked", PATH)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def results(steps: str) -> list[tuple[str, str]]:
    return re.findall(r"(-?\d+[-+*]\d+)=(-?\d+)", steps)


@given(seed=st.integers(0, 2**64), level=st.sampled_from(["mixed", "wide"]))
@settings(max_examples=60, deadline=None)
def test_right_answers_hold_and_wrong_ones_do_not(worked: Any, seed: int, level: Any) -> None:
    random = np.random.default_rng(seed)
    question, answer, _ = training_question(random, level)
    steps, right = worked.check(question, answer)
    assert right and steps.endswith(" ok")
    for text in (steps, worked.solve(question, answer)):
        assert results(text)
        assert all(eval(left) == int(result) for left, result in results(text))
    made_up, wrong = worked.mistaken(question, answer, random)
    steps, right = worked.check(question, wrong)
    assert wrong != answer and not right and steps.endswith(" no")
    assert all(eval(left) == int(result) for left, result in results(steps))  # a check is honest whatever it checks
    reasoning, adopted = worked.reconsider(question, answer, [(made_up, wrong), (made_up, wrong), ("", answer)])
    assert adopted == answer and reasoning.startswith("1:") and ";2:" not in reasoning
    assert ";3:" in reasoning and reasoning.endswith(" ok")
    reasoning, adopted = worked.reconsider(question, answer, [(made_up, wrong)])
    assert adopted == answer and reasoning.endswith(";new:" + worked.solve(question, answer))


@given(seed=st.integers(0, 2**64), candidate=st.text("0123456789+-, x", max_size=12))
@settings(max_examples=200, deadline=None)
def test_any_text_can_be_checked(worked: Any, seed: int, candidate: str) -> None:
    question, answer, _ = training_question(np.random.default_rng(seed))
    assert worked.check(question, candidate)[1] == (candidate == answer)
