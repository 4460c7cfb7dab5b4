from collections import Counter

import dspy
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynscale_dspy import BudgetPool, DynScaling, Parallel
from dynscale_dspy.allocation.costs import Cost
from dynscale_dspy.reporting.history import CallRecord
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
