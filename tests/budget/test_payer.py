from __future__ import annotations

from dynscale_dspy import BudgetPool
from dynscale_dspy.budget.payer import Payer, Program


def test_a_pools_admission_is_a_payer():
    admission = BudgetPool(samples=3).admission
    wanted = {name for name in (*vars(Payer), *Payer.__annotations__) if not name.startswith("_")}
    assert wanted and all(hasattr(admission, name) for name in wanted)


def test_nothing_is_known_of_a_program_at_first():
    program = Program()
    assert (program.learned.need, program.open_calls, program.opened) == (None, set(), 0)
