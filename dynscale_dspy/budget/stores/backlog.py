"""What a store could not settle while it failed, kept until it works again."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Hashable, Iterator, Mapping

from dynscale_dspy.allocation.costs import Cost
from dynscale_dspy.budget.stores.base import Limits, Store
from dynscale_dspy.errors import StorageError

logger = logging.getLogger(__name__)


class Backlog:
    """A store that may fail, with what it still has to be told.

    Settling never fails here: what the store could not write is kept, counted in :meth:`totals`, and written before the
    next change. Every other failure is a :class:`~dynscale_dspy.errors.StorageError`, and then nothing has changed.

    Not thread safe on its own, like the ledger it belongs to.

    Args:
        store: The store.

    Example:
        >>> from dynscale_dspy.budget.stores.memory import MemoryStore
        >>> store = Backlog(MemoryStore())
        >>> store.settle(store.reserve(Cost(samples=2), {}), Cost(samples=1))
        >>> store.totals() == (Cost(samples=1), Cost()), store.unsettled
        (True, 0)
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._held: dict[Hashable, Cost] = {}
        self._amended: dict[Hashable, Cost] = {}
        self._settled: dict[Hashable, tuple[Cost, tuple[bytes, int] | None]] = {}
        self._seen: tuple[Cost, Cost] | None = None
        self._failing = False
        with contextlib.suppress(Exception):
            self._seen = store.totals()  # so that there is something to tell if it fails

    @property
    def is_durable(self) -> bool:
        """Whether the budget outlives this process."""
        return self._store.is_durable

    @property
    def unsettled(self) -> int:
        """How many reservations wait to be settled."""
        return len(self._settled)

    def totals(self) -> tuple[Cost, Cost]:
        """What is spent and what is reserved; as it was last seen, if the store cannot tell.

        Raises:
            StorageError: If it has never told.
        """
        try:
            with _told():
                self._seen = self._store.totals()
        except StorageError:
            if self._seen is None:
                raise
        spent, reserved = self._seen
        for handle, (used, _) in self._settled.items():
            spent += used
            reserved -= self._held.get(handle, _NOTHING)
        return spent, reserved

    def reserve(self, amount: Cost, limits: Limits) -> Hashable | None:
        """Set an amount aside, unless that would pass a limit."""
        handle = None
        try:
            with _told():
                self._catch_up()
                handle = self._store.reserve(amount, limits)
            if handle is not None:
                self._held[handle] = amount
                self._moved(_NOTHING, amount)
            return handle
        except BaseException:  # an interrupt: nobody has the handle
            if handle is not None:
                self.settle(handle, _NOTHING)
            raise

    def amend(self, handle: Hashable, amount: Cost, limits: Limits) -> bool:
        """Change the amount that a handle holds, unless a unit that grows would pass its limit."""
        with _told():
            self._catch_up()
            amended = self._store.amend(handle, amount, limits)
        if amended:
            self._moved(_NOTHING, amount - self._held.get(handle, amount))
            self._held[handle] = amount
        return amended

    def put_back(self, handle: Hashable, amount: Cost) -> None:
        """Have a handle hold an earlier, smaller amount again: at once, or when the store works again."""
        self._amended[handle] = amount
        self._try()

    def settle(self, handle: Hashable, used: Cost, sample: tuple[bytes, int] | None = None) -> None:
        """Release what a handle holds and spend what was used: at once, or when the store works again."""
        self._settled[handle] = used, sample
        self._try()

    def paid(self, call: bytes) -> frozenset[int]:
        """Return the numbers of a call's samples that are paid."""
        with _told():
            return self._store.paid(call)

    def roll(self, period: int) -> None:
        """Begin a period. What was not settled in time counts in the one in which it is."""
        with _told():
            self._store.roll(period)

    def reconcile(self, *, refund: bool = False) -> Cost:
        """Settle what dead owners left reserved, and return how much that was."""
        with _told():
            self._catch_up()
            return self._store.reconcile(refund=refund)

    def note(self, notes: Mapping[str, str]) -> None:
        """Keep texts under their names."""
        with _told():
            self._store.note(notes)

    def notes(self) -> dict[str, str]:
        """Return all texts that are kept, by name."""
        with _told():
            return self._store.notes()

    def close(self) -> None:
        """Let go of files and connections."""
        self._try()
        with _told():
            self._store.close()

    # ---- inside

    def _try(self) -> None:
        """Tell the store what it does not know yet, if it works."""
        try:
            with _told():
                self._catch_up()
        except StorageError as error:
            if not self._failing and self._settled:
                logger.error("a sample could not be settled and stays reserved until its store works again: %s", error)
            self._failing = True

    def _catch_up(self) -> None:
        for handle, amount in list(self._amended.items()):
            if handle not in self._settled:
                self._store.amend(handle, amount, {})
                self._moved(_NOTHING, amount - self._held.get(handle, amount))
                self._held[handle] = amount
            del self._amended[handle]
        # A store settles a handle once: after an error or an interrupt it may be told again.
        for handle, (used, sample) in list(self._settled.items()):
            self._store.settle(handle, used, sample)
            self._moved(used, _NOTHING - self._held.get(handle, _NOTHING))
            del self._settled[handle]
            self._held.pop(handle, None)
        if self._failing:
            self._failing = False
            logger.warning("the budget's store works again: everything is settled")

    def _moved(self, spent: Cost, reserved: Cost) -> None:
        """Keep what was last seen up to date with what this process did since."""
        if self._seen is not None:
            self._seen = self._seen[0] + spent, self._seen[1] + reserved


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """Make whatever a store raises an error of storage."""
    try:
        yield
    except StorageError:
        raise
    except Exception as error:
        raise StorageError(
            f"the budget's store failed with {type(error).__name__}: {error}. See to it and go on: what is reserved is "
            "settled once it works again"
        ) from error


_NOTHING = Cost()
