"""What a holder of a lease writes down on its own machine, so that others can read what it spent if it dies."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from dynscale_dspy.allocation.costs import Cost
from dynscale_dspy.budget.stores.owners import OwnerLock, claim
from dynscale_dspy.budget.stores.sqlite import SQLiteStore, remove_budget
from dynscale_dspy.errors import StorageError


class LeaseLog:
    """The file in which a holder keeps the ledger of its lease, from its first sample until the lease is closed.

    A lock beside the file shows that the holder lives. Where there are no such locks nobody reads the file, and a dead
    holder counts as having spent all that it had.

    Args:
        budget: The published budget's own name.
        lease: The lease.
    """

    def __init__(self, budget: str, lease: str) -> None:
        folder = _folder(budget)
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / f"{lease}.sqlite"
        self._lock = OwnerLock(folder / f"{lease}.lock", lasting=True)

    def remove(self) -> None:
        """Delete the file: the lease is closed."""
        remove_budget(self.path)
        self._lock.release()

    def leave(self) -> None:
        """Let others read the file, as if this process were dead."""
        self._lock.release(keep=True)


@contextlib.contextmanager
def abandoned(budget: str) -> Iterator[dict[str, Cost]]:
    """The leases of this machine whose holders are dead, and what each of them has spent or had in flight.

    Their files are deleted when the block ends without an error, and until then no other process reads them.

    Args:
        budget: The published budget's own name.
    """
    found: dict[str, Cost] = {}
    with contextlib.ExitStack() as locks:
        for lock_path in sorted(_folder(budget).glob("*.lock")):
            try:
                lock = claim(lock_path)
            except FileNotFoundError:
                continue
            if lock is None:
                continue
            locks.callback(lock.release, keep=True)
            path = lock_path.with_suffix(".sqlite")
            used = Cost()  # without a file nothing was granted yet
            if path.exists():
                try:
                    store = SQLiteStore(path)
                except StorageError:
                    continue  # cannot be known: all that was leased counts as spent
                # What was in flight has most likely been asked for: it counts at its bound.
                used = sum(store.totals(), Cost())
                store.close()
            found[lock_path.stem] = used
            locks.push(lambda error, *_, path=path, lock=lock: _forget(path, lock) if error is None else None)
        yield found


def _forget(path: Path, lock: OwnerLock) -> None:
    remove_budget(path)
    lock.release()


def _folder(budget: str) -> Path:
    user = os.getuid() if hasattr(os, "getuid") else "user"
    return Path(tempfile.gettempdir()) / f"dynscale-{user}" / budget
