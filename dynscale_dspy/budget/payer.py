"""What calls need of the pool that pays for their samples."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from dynscale_dspy.allocation.costs import Cost
from dynscale_dspy.allocation.learned import Learned
from dynscale_dspy.allocation.pacing import Pacing
from dynscale_dspy.allocation.policies import Policy
from dynscale_dspy.budget.accounts import Accounts, Ledger
from dynscale_dspy.budget.locking import StepLock

if TYPE_CHECKING:
    from dynscale_dspy.budget.arms import Arm


class Program:
    """What a pool keeps of one program.

    Attributes:
        learned: What its samples need, cost and change.
        open_calls: Numbers of its calls that are being answered.
        opened: How many calls it has had.
    """

    __slots__ = ("learned", "open_calls", "opened")

    def __init__(self) -> None:
        self.learned = Learned()
        self.open_calls: set[int] = set()
        self.opened = 0


class Payer(Protocol):
    """What arms and leases need of the pool that pays: :class:`~dynscale_dspy.budget.admission.Admission` is one."""

    lock: StepLock
    policy: Policy
    accounts: Accounts
    min_per_call: int

    @property
    def root(self) -> object:
        """The outermost pool: payers with the same one share a lock and charge each other's samples once."""
        ...

    @property
    def is_late(self) -> bool:
        """Whether a deadline has passed, here or in a pool around."""
        ...

    @property
    def is_halted(self) -> bool:
        """Whether no sample may begin, here or in a pool around."""
        ...

    @property
    def pacing(self) -> Pacing:
        """What paces calls of this pool: its own, or that of a pool around."""
        ...

    @property
    def spare(self) -> float:
        """Samples that calls under way may take, beside those kept for calls that wait for their first."""
        ...

    @property
    def drawn(self) -> int:
        """Samples drawn so far, over all calls."""
        ...

    def ledger_for(self, program: object | None) -> Ledger:
        """The ledger that a program's samples are charged to."""
        ...

    def program(self, program: object | None) -> Program:
        """What is kept of a program."""
        ...

    def paid(self, key: bytes | None) -> frozenset[int]:
        """The samples of a call that an earlier run has paid for."""
        ...

    def count_drawn(self, samples: int) -> None:
        """So many more samples were drawn, here and in every pool around."""
        ...

    def sample_settled(
        self, cost: Cost | None, failure: BaseException | None, *, cut_off: bool, saved: Cost | None
    ) -> None:
        """A sample is over, inside the lock.

        Args:
            cost: What it cost; None for one that did not run as a whole.
            failure: The error of the program, if it had one.
            cut_off: Whether one of its requests could not be paid.
            saved: What DSPy's cache has saved of it, if samples are counted in ones like it; else None.
        """
        ...

    def used_beyond(self) -> None:
        """More was used than was set aside for it: caps may be passed. Inside the lock."""
        ...

    def call_closed(self, arm: Arm, *, samples: int, charged: Cost | None) -> None:
        """A call is over, inside the lock.

        Args:
            arm: Its arm.
            samples: How many it drew.
            charged: What it was charged; None for a nested call, for which the one around it answers.
        """
        ...
