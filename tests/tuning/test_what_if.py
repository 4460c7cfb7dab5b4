"""What another budget would buy."""

from __future__ import annotations

import dspy
import pytest

from dynscale_dspy import BudgetPool, DynScaling, Parallel
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
    with pytest.raises(ValueError, match="answered no call"):
        what_if(BudgetPool(samples=1))
