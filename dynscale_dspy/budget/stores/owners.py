"""How to tell whether an owner of budget lives: each keeps a file of its own locked until it ends.

The lock is of the kind ``flock``. The system releases it however a process ends, ``kill -9`` included, and it means
the same in every container that shares the folder. Process ids do neither: they are given out again, and each container
counts its own.

``flock`` locks belong to the open file, which a fork shares with the child. A child that kept the descriptor would keep
a dead parent's lock, so each child closes those it inherited; closing one of several descriptors releases nothing, so
the parent keeps its lock. (The other kind, ``fcntl.lockf``, is not inherited, but two owners in one process cannot tell
each other with it, and closing any descriptor of the file releases it.) A child that was forked without Python's
knowledge keeps the lock until it ends: then a dead owner counts as living for longer, never a living one as dead.
"""

from __future__ import annotations

import contextlib
import os
import weakref
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows: without locks no owner can be found dead
    fcntl = None  # type: ignore[assignment]


class OwnerLock:
    """A locked file that shows that its owner lives. Made locked; :func:`claim` finds those of dead owners.

    A process that is killed leaves the file behind, unlocked. Where the system or the file system has no such locks
    there is no file.

    Args:
        path: The file, whose name no other owner uses.
        lasting: Whether the file also stays if the process ends well, or loses this object, without a release. By
            default it is deleted then.

    Raises:
        OSError: If the file cannot be made.
    """

    def __init__(self, path: Path, *, lasting: bool = False) -> None:
        descriptor = None
        if fcntl is not None:
            # The file gets its name when it is locked already, so that nobody finds it unlocked and takes it for dead.
            making = Path(f"{path}.new")
            descriptor = os.open(making, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                if _locked(descriptor):
                    making.rename(path)
                else:
                    making.unlink()
                    os.close(descriptor)
                    descriptor = None
            except OSError:
                os.close(descriptor)
                raise
        self._hold(path, descriptor, lasting)

    def _hold(self, path: Path, descriptor: int | None, lasting: bool) -> None:
        self.path = path
        self._finalizer = None
        if descriptor is not None:
            file = _File(path, descriptor)
            self._finalizer = weakref.finalize(self, file.let_go, delete=not lasting)
            _files.add(file)
            self._file = file

    @classmethod
    def _of(cls, path: Path, descriptor: int) -> OwnerLock:
        lock = cls.__new__(cls)
        lock._hold(path, descriptor, lasting=True)
        return lock

    def release(self, *, keep: bool = False) -> None:
        """Unlock the file and delete it; releasing twice does nothing.

        Args:
            keep: Whether the file stays, so that others find its owner dead.
        """
        if self._finalizer is not None and self._finalizer.detach() is not None:
            self._file.let_go(delete=not keep)


def claim(path: Path) -> OwnerLock | None:
    """Take over the lock of a dead owner, so that only one process settles what it left.

    Args:
        path: The owner's file.

    Returns:
        The lock, to be released by the caller; None if the owner lives, or if that cannot be told.

    Raises:
        FileNotFoundError: If there is no such file: the owner ended well, or never had one.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        raise
    except OSError:
        return None
    if not _locked(descriptor):
        os.close(descriptor)
        return None
    try:
        gone = not os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:  # its owner, or whoever settled for it, deleted it in the meantime
        os.close(descriptor)
        raise
    if gone:
        os.close(descriptor)
        return None
    return OwnerLock._of(path, descriptor)


def _locked(descriptor: int) -> bool:
    """Lock a file; False if it is locked already, or cannot be."""
    if fcntl is None:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


class _File:
    """A locked file and its descriptor, apart from the lock so that it can be let go of when that is collected."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self._path = path
        self._descriptor: int | None = descriptor
        self._pid = os.getpid()

    def let_go(self, *, delete: bool) -> None:
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is None:
            return
        if delete and self._pid == os.getpid():  # while it is locked, so that nobody claims what is being deleted
            with contextlib.suppress(OSError):
                self._path.unlink()
        os.close(descriptor)


_files: weakref.WeakSet[_File] = weakref.WeakSet()


def _close_inherited() -> None:
    for file in list(_files):
        file.let_go(delete=False)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_inherited)
