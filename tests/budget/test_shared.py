from __future__ import annotations

from dynscale_dspy import BudgetPool
from dynscale_dspy.budget.shared import Counts
from tests.support import Known, opened


def test_open_calls_are_those_here_and_elsewhere():
    counts = Counts(open={3, 5}, open_elsewhere=4)
    assert counts.open_calls == 6


def test_in_a_child_no_call_is_open_and_no_arm_answers_for_one():
    pool, program = BudgetPool(samples=9), Known()
    arm = opened(pool, program=program)
    shared = pool.admission.shared
    shared.promised = 2
    shared.open_known.add(7)
    kept = shared.programs[program]
    assert arm in shared.open_arms and kept.open_calls
    shared.begin_anew(None)
    assert (shared.promised, len(shared.open_arms), kept.open_calls) == (0, 0, set())
    assert shared.open_known == set()
    assert not arm.is_open and shared.throttle is None
