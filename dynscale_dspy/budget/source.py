"""What a module can be given as its budget."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from dynscale_dspy.budget.pool import BudgetPool


@runtime_checkable
class BudgetSource(Protocol):
    """A budget: a pool, or something that has a pool in this process, such as a client of a published one."""

    def active(self) -> BudgetPool:
        """The pool or scope of this process that pays for what is called here."""
        ...
