from collections import Counter

import dspy
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynscale_dspy import BudgetPool, DynScaling, Escalate, Parallel, Uniform
from dynscale_dspy.allocation.costs import Cost
from dynscale_dspy.reporting.history import CallRecord
from dynscale_dspy.selection.medoid import Medoid
from dynscale_dspy.tuning import what_if as module
from dynscale_dspy.tuning.what_if import what_if
from tests.support import ScriptedModel


def test_what_if_more_budget_settles_more_answers_and_touches_nothing():
    pool = BudgetPool(samples=400)
    qa = DynScaling(dspy.Predict("question -> answer"), budget=pool, sampling=Parallel())
    with dspy.context(lm=ScriptedModel(lambda p, n: {"answer": "A" if "easy" in p or n % 3 else str(n)}).lm()):
        qa.batch([{"question": f"{'easy' if i % 2 else 'hard'} {i}"} for i in range(40)], num_threads=2)
    before = pool.statistics()
    result = what_if(pool, budgets=[1, 4, 16])
    curve = [result.accuracy("this pool's policy", budget) for budget in (1, 4, 16)]
    assert curve[0] < curve[1] <= curve[2] <= 1
    assert pool.statistics() == before


def test_text_that_is_much_alike_is_one_answer():
    """No two samples are equal: by equality no number of samples settles anything."""

    def reply(prompt, number):
        return {"summary": f"the council voted for it {number}" if number % 3 else f"w{number} x{number}"}

    pool = BudgetPool(samples=240, policy=Uniform())
    write = DynScaling(dspy.Predict("document -> summary"), pool, selector=Medoid(), sampling=Parallel())
    with dspy.context(lm=ScriptedModel(reply).lm()):
        write.batch([{"document": f"{i}"} for i in range(30)], num_threads=1)
    result = what_if(pool, budgets=[1, 8])
    assert 0.6 < result.accuracy("uniform", 1) < 0.77 < result.accuracy("uniform", 8)


def asked(strategy, samples=120):
    """A pool of 40 calls: half of them are easy, and temperature 0 is always alike."""

    class Warm(ScriptedModel):
        @staticmethod
        def text(request):
            return f"{ScriptedModel.text(request)}\ntemperature {request.config.temperature}"

    def reply(prompt, number):
        settled = "easy" in prompt or "temperature 0.0" in prompt or number % 3
        return {"answer": "A" if settled else str(number)}

    pool = BudgetPool(samples=samples, policy=Uniform())
    qa = DynScaling(dspy.Predict("question -> answer"), budget=pool, sampling=strategy)
    with dspy.context(lm=Warm(reply).lm(temperature=1.0)):
        qa.batch([{"question": f"{'easy' if i % 2 else 'hard'} {i}"} for i in range(40)], num_threads=1)
    return pool


def test_a_greedy_run_that_was_recorded_is_compared_and_shown_first():
    result = what_if(asked(Parallel(first="greedy")), budgets=[1, 3])
    assert result.single.keys() == {"greedy"}
    run = result.single["greedy"]
    assert run.calls == 40 and run.accuracy >= result.accuracy("uniform", 1)
    head, plain, greedy, *policies, words = str(result).splitlines()
    assert head.split()[-2:] == ["1", "3"]
    assert plain.split("  ")[0] == "plain program" and plain.endswith("not recorded")
    assert greedy.startswith("plain program, temperature 0")
    assert greedy.endswith(f"{run.accuracy:.1%} of 40 calls, one sample each")
    assert {line.split("  ")[0] for line in policies} == {"this pool's policy", "uniform"}
    assert "right or wrong" in words


def test_what_was_not_recorded_is_not_made_up():
    result = what_if(asked(Parallel()), budgets=[1, 3])
    assert result.single == {}
    assert str(result).count("not recorded") == 2


def test_single_runs_are_the_first_of_their_sampler_whatever_else_a_call_holds():
    """A call may hold several, and none that voted; records without names tell of none."""
    recorder = BudgetPool(samples=1)
    for answers, samplers in [
        ((0, 0, 0, 0), ("greedy", "independent", "greedy", "independent")),
        ((None, 0, 0), ("greedy label", "independent", "independent")),
        ((0, 1, 1, 1, 1, 1, 1, 1), ("independent", "plain", *["independent"] * 6)),
        ((0, 0), ()),
    ]:
        recorder.record(CallRecord("program", answers, 1.0, 1.0, Cost(), samplers))
    single = what_if(recorder, budgets=[1]).single
    assert single["greedy"] == module.SingleRun(2, 0.5)
    assert single["plain"].calls == 1


def test_what_one_of_several_language_models_would_have_done_alone():
    cheap = ScriptedModel(lambda text, number: {"answer": "A"})
    dear = ScriptedModel(lambda text, number: {"answer": "A" if "easy" in text else "B"})
    pool = BudgetPool(samples=120, policy=Uniform())
    lms, ladder = {"cheap": cheap.lm(), "dear": dear.lm()}, Escalate(first=2, upfront=0, beside=0)
    qa = DynScaling(dspy.Predict("question -> answer"), pool, lms=lms, sampling=ladder, max_choices=1)
    made = qa.batch([{"question": f"{'easy' if i % 2 else 'hard'} {i}"} for i in range(30)], num_threads=1)
    assert [each.answer for each in made] == ["B", "A"] * 15
    shares = {name: what_if(pool, budgets=[1, 4], model=name).accuracy("uniform", 4) for name in lms}
    assert shares["dear"] > 0.75 and shares["cheap"] <= 0.5
    with pytest.raises(ValueError, match="draw from 'cheap', 'dear': pass model=, one of them, got model=None"):
        what_if(pool)
    with pytest.raises(ValueError, match="ask one model each, got model='cheap'"):
        what_if(asked(Parallel()), model="cheap")


def test_a_pool_that_has_answered_nothing_has_nothing_to_replay():
    with pytest.raises(ValueError, match=r"^this pool has answered no call yet$"):
        what_if(BudgetPool(samples=1))


@given(st.lists(st.sampled_from(["A", "B", "C", None]), min_size=1, max_size=12), st.integers(0, 2**16))
def test_the_right_answer_is_the_one_that_wins_the_long_run(said, seed):
    """Most votes; of equal ones the one seen first, which has the smaller number."""
    numbers: dict[str, int] = {}
    answers = tuple(None if answer is None else numbers.setdefault(answer, len(numbers)) for answer in said)
    call = CallRecord("program", answers, agreement=1.0, confidence=1.0, cost=Cost())
    question = module._continued("call", call, np.random.default_rng(seed))
    assert question.answers[: len(said)] == tuple(None if answer is None else str(answer) for answer in answers)
    votes = Counter(answer for answer in question.answers if answer is not None)
    if votes:
        assert question.right == {min(votes, key=lambda answer: (-votes[answer], int(answer)))}
