"""What a user is told of an exhausted budget: which cap, its size, what is spent, reserved and needed, what to do."""

from __future__ import annotations

import asyncio
import pickle
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import dspy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynscale_dspy import BudgetExhausted, BudgetPool, Cost, DynScaling, Parallel, Price, Uniform, wrap
from dynscale_dspy.allocation.costs import UNITS
from dynscale_dspy.budget.accounts import Ledger
from dynscale_dspy.budget.alerts import CapNotSure
from dynscale_dspy.budget.shortages import lacking
from dynscale_dspy.testing import FakeServer
from tests.support import ScriptedModel, cycle

SMALL = st.integers(0, 6)
COSTS = st.builds(Cost, samples=SMALL, requests=SMALL, prompt_tokens=SMALL, nanodollars=SMALL)
LIMITS = st.fixed_dictionaries({unit: st.none() | st.integers(0, 12) for unit in UNITS})


@given(LIMITS, LIMITS, st.lists(st.tuples(COSTS, COSTS, st.booleans()), max_size=4), COSTS)
def test_a_cap_is_named_if_and_only_if_it_forbids_what_is_needed(outer, inner, done, need):
    above = Ledger(**outer, name="the pool")
    ledger = Ledger(**inner, parent=above, name="the scope")
    for reserved, used, ended in done:
        reservation = ledger.reserve(reserved)
        if reservation is not None and ended:
            ledger.settle(reservation, used)
    said = lacking(ledger, need, "it needs {}")
    assert bool(said) == (ledger.reserve(need) is None)
    for place, each in (("the scope", ledger), ("the pool", above)):
        for unit, limit in each.limits.items():
            name = "dollars" if unit == "nanodollars" else unit
            forbids = limit is not None and 0 < getattr(need, unit) > limit - each.booked(unit)
            if name != "dollars":
                assert (f" {name} of {place} are spent" in said) == (forbids and bool(said))


def test_what_a_sample_holds_itself_is_not_in_its_way():
    ledger = Ledger(requests=3)
    mine = ledger.reserve(Cost(samples=1, requests=1))
    ledger.reserve(Cost(samples=1, requests=2))
    assert mine is not None and not lacking(ledger, Cost(requests=1), "it needs {}", held=mine.amount)
    assert lacking(ledger, Cost(requests=2), "this one needs {}", held=mine.amount) == (
        "0 of 3 requests of the pool are spent, 2 reserved by others under way, 1 left, and this one needs 2: "
        "raise requests= or ask again when the others are done"
    )


# ---- what calls raise


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer(1, median_latency=0.0) as made:
        yield made


def sync(program: Any, text: str) -> Any:
    return program(question=text)


def awaited(program: Any, text: str) -> Any:
    return asyncio.run(program.acall(question=text))


def batch(program: Any, text: str) -> Any:
    """The error of a batch of one."""
    _, _, errors = program.batch([{"question": text}], disable_progress_bar=True, return_failed_examples=True)
    for error in errors:
        raise error


WAYS = pytest.mark.parametrize("ask", [sync, awaited, batch])


def said(pool: BudgetPool, lm: Any, ask: Callable[[Any, str], Any] = sync, **settings: Any) -> str:
    """What a program says once its budget is exhausted."""
    program = settings.pop("program", None) or DynScaling(dspy.Predict("question -> answer"), pool, sampling=Parallel())
    with dspy.context(lm=lm), pytest.raises(BudgetExhausted) as raised:
        for number in range(50):
            ask(program, f"question {number}")
    return str(raised.value)


@WAYS
@pytest.mark.parametrize("unit", ["samples", "requests", "tokens", "dollars"])
def test_the_cap_that_ran_out_is_named_in_its_unit(server: FakeServer, ask: Any, unit: str) -> None:
    cap = {"samples": 7, "requests": 7, "tokens": 3000, "dollars": 0.003}[unit]
    pool = BudgetPool(**{unit: cap}, prices={"openai/fake": Price(prompt=1, completion=2)})  # type: ignore[arg-type]
    told = said(pool, server.lm(max_tokens=200), ask)
    written = f"${cap} of the pool" if unit == "dollars" else f"{cap:,} {unit} of the pool"
    assert f" of {written} are spent, " in told and f"raise {unit}=" in told
    assert ("max_tokens" in told) == (unit in ("tokens", "dollars"))


@WAYS
def test_one_request_that_is_dearer_than_all_there_is(server: FakeServer, ask: Any) -> None:
    pool = BudgetPool(tokens=200)
    told = said(pool, server.lm(max_tokens=1000), ask)
    assert told.startswith(
        "the pool could not pay the next language-model call in the middle of a sample: 0 of 200 tok"
    )
    needed = int(told.rpartition(" needs ")[2].split()[0].replace(",", ""))
    assert 1000 < needed < 2000 and "with its next request: raise tokens= or give the language model a lower" in told


@pytest.mark.parametrize("ask", [sync, awaited])
def test_shares_and_scopes_are_named(ask: Any) -> None:
    pool = BudgetPool(samples=50)
    program = DynScaling(dspy.Predict("question -> answer"), pool, sampling=Parallel())
    pool.share(program, 0.1)
    lm = ScriptedModel(cycle("A", "B")).lm()
    share = (
        "5 of 5 samples of the share of Predict(question -> answer) are spent, 0 reserved by others under way, 0 left"
    )
    assert said(pool, lm, ask, program=program) == (
        f"nothing is left for a first sample: {share}, and a first sample needs 1: "
        "raise its fraction with reserve_for()"
    )
    other = DynScaling(dspy.Predict("question -> answer"), pool, sampling=Parallel())
    with pool.scope(samples=3, requests=3):
        told = said(pool, lm, ask, program=other)
    assert "3 of 3 samples of the scope are spent" in told and "3 of 3 requests of the scope are spent" in told
    assert "raise requests= of the scope" in told and "of the pool are spent" not in told


def test_what_calls_under_way_hold_is_said_to_be_reserved(server: FakeServer) -> None:
    pool = BudgetPool(samples=4, min_per_call=4)
    lm = server.lm(cache=False)

    def ask() -> None:
        with dspy.context(lm=lm):
            DynScaling(dspy.Predict("question -> answer"), pool, sampling=Parallel())(question="first")

    first = threading.Thread(target=ask)
    with server.held():
        first.start()
        server.wait_until(lambda now: now.in_flight == 4)
        told = said(pool, lm)
    first.join()
    assert "0 of 4 samples of the pool are spent, 4 reserved by others under way, 0 left" in told
    assert told.endswith("raise samples= or ask again when the others are done")


def test_a_batch_that_is_too_large_says_what_there_is() -> None:
    pool = BudgetPool(samples=9, requests=4)
    program = DynScaling(dspy.Predict("question -> answer"), pool)
    examples = [{"question": str(number)} for number in range(5)]
    with dspy.context(lm=ScriptedModel(cycle("A")).lm()):
        with pytest.raises(
            BudgetExhausted, match="0 of 4 requests of the pool are spent, .* they need 5: raise requests="
        ):
            program.batch(examples, disable_progress_bar=True)


def test_a_period_tells_when_it_begins_anew() -> None:
    pool = BudgetPool(samples=1, period=100, clock=lambda: 1030.0)
    program = DynScaling(dspy.Predict("question -> answer"), pool)
    with dspy.context(lm=ScriptedModel(cycle("A")).lm()):
        program(question="one")
        with pytest.raises(BudgetExhausted, match="raise samples=; the next period begins in 70 s$") as raised:
            program(question="two")
    assert raised.value.retry_after == 70
    copy = pickle.loads(pickle.dumps(raised.value))
    assert (str(copy), copy.retry_after) == (str(raised.value), 70)


def test_a_deadline_tells_how_long_it_was() -> None:
    now = [100.0]
    pool = BudgetPool(per_call=2, deadline=30, clock=lambda: now[0])
    program = DynScaling(dspy.Predict("question -> answer"), pool)
    lm = ScriptedModel(cycle("A")).lm()
    with pool.scope(deadline=10):
        now[0] = 112
        told = said(pool, lm, program=program)
    assert told.startswith("the deadline of the scope has passed: it was 10 s, and ended 2 s ago; a new pool or scope")
    now[0] = 131
    assert "the deadline of the pool has passed: it was 30 s, and ended 1 s ago" in said(pool, lm, program=program)


def test_predictors_inside_a_program_say_whose_share_it_was() -> None:
    pool = BudgetPool(samples=20, policy=Uniform())
    program = wrap(dspy.ChainOfThought("question -> answer"), pool)
    pool.reserve_for(program.predict, 0.1)
    told = said(pool, ScriptedModel(cycle("A")).lm(), program=program)
    assert "2 of 2 samples of the share of Predict(question -> reasoning, answer) are spent" in told


@pytest.mark.parametrize("engine", ["auto", "litellm"])
def test_a_cap_that_cannot_be_held_is_said_on_the_screen(server: FakeServer, engine: str) -> None:
    pool = BudgetPool(dollars=1, samples=3)
    program = DynScaling(dspy.Predict("question -> answer"), pool, sampling=Parallel())
    with dspy.context(lm=server.lm(max_tokens=50, engine=engine)), pytest.warns(CapNotSure) as told:
        program(question="one")
    [words] = {str(each.message) for each in told if each.category is CapNotSure}
    assert words.startswith("nothing bounds what a request to openai/fake costs: ") and "strict=True refuses" in words
    with dspy.context(lm=server.lm(max_tokens=50, engine=engine)), warnings.catch_warnings():
        warnings.simplefilter("error")
        loud = DynScaling(dspy.Predict("question -> answer"), BudgetPool(dollars=1, samples=3), sampling=Parallel())
        assert loud(question="two").answer  # a filter that makes it an error costs no call
