"""What holders of leases write down on their own machine, so that a dead one's spending can be read."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from dynscale_dspy.allocation.costs import Cost
from dynscale_dspy.budget.stores.sqlite import SQLiteStore
from dynscale_dspy.errors import StorageError

try:
    import fcntl
except ImportError:  # Windows: what a dead process spent is not read there, and counts as all it had
    fcntl = None  # type: ignore[assignment]


class Journal:
    """The place of one holder's ledger in a file, which exists as long as its lease is open.

    A lock tells whether the holder lives: the system lets go of it however the process ends, and process ids, which may
    be another's by now or in another container, are not asked.

    Args:
        budget: The shared budget's own name.
        lease: The lease.
    """

    def __init__(self, budget: str, lease: str) -> None:
        folder = _folder(budget)
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / f"{lease}.sqlite"
        self._lock_path = folder / f"{lease}.lock"
        self._lock: IO[str] | None = _locked(self._lock_path, create=True)

    def remove(self) -> None:
        """The lease is closed."""
        _remove(self.path, self._lock_path)
        self.leave()

    def leave(self) -> None:
        """Let others read it, as if this process were dead."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None


@contextlib.contextmanager
def deserted(budget: str) -> Iterator[dict[str, Cost]]:
    """The leases of this machine whose holders are dead, and what each has spent or had in flight.

    When the block ends well their records are removed.
    """
    found: dict[str, Cost] = {}
    with contextlib.ExitStack() as locks:
        for lock_path in sorted(_folder(budget).glob("*.lock")):
            lock = _locked(lock_path)
            if lock is None:
                continue
            locks.callback(lock.close)
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
        yield found
        for lease in found:
            _remove(_folder(budget) / f"{lease}.sqlite", _folder(budget) / f"{lease}.lock")


def _folder(budget: str) -> Path:
    user = os.getuid() if hasattr(os, "getuid") else "user"
    return Path(tempfile.gettempdir()) / f"dynscale-{user}" / budget


def _locked(path: Path, *, create: bool = False) -> IO[str] | None:
    """The file, locked; None if another process holds it, or it is gone."""
    if fcntl is None and not create:
        return None
    try:
        file = path.open("a" if create else "r+")
    except OSError:
        if create:
            raise
        return None
    if fcntl is not None:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.close()
            return None
    return file


def _remove(path: Path, lock_path: Path) -> None:
    for gone in (path, Path(f"{path}-wal"), Path(f"{path}-shm"), lock_path):
        with contextlib.suppress(OSError):
            gone.unlink()
