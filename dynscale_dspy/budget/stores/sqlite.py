"""A budget kept in an SQLite file, which the processes of one machine may share and any of them may be killed."""

from __future__ import annotations

import contextlib
import glob
import logging
import os
import sqlite3
import threading
import uuid
from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import astuple, fields
from pathlib import Path
from typing import Any

from dynscale_dspy import _fields
from dynscale_dspy._fields import check
from dynscale_dspy.allocation.costs import Cost
from dynscale_dspy.budget.stores.base import Limits, fits
from dynscale_dspy.budget.stores.forks import ForkGuard
from dynscale_dspy.budget.stores.owners import OwnerLock, claim
from dynscale_dspy.errors import StorageError

logger = logging.getLogger(__name__)

APPLICATION = 0x44594E53
"""The application id in the header of a budget's file: "DYNS"."""
VERSION = 1
"""The version of the file's format, kept in its header too."""
_BUSY = 60.0  # seconds that a change waits for those of other processes
_BUSY_AGAIN = 1000  # milliseconds that it waits after one has failed, so that calls come to an end

# Files keep the column names of version 0.1.
_OLD_NAMES = {"requests": "calls", "cached_requests": "cached_calls"}
_NAMES = tuple(_OLD_NAMES.get(field.name, field.name) for field in fields(Cost))
_COLUMNS = ", ".join(_NAMES)
_INTEGERS = ", ".join(f"{name} INTEGER NOT NULL DEFAULT 0" for name in _NAMES)
_SET = ", ".join(f"{name} = ?" for name in _NAMES)
_MARKS = ", ".join("?" for _ in _NAMES)
_SCHEMA = (
    f"CREATE TABLE totals (kind TEXT PRIMARY KEY, {_INTEGERS}) WITHOUT ROWID",
    "CREATE TABLE period (number INTEGER)",
    f"CREATE TABLE reservations (handle INTEGER PRIMARY KEY, owner TEXT NOT NULL, {_INTEGERS})",
    "CREATE TABLE owners (owner TEXT PRIMARY KEY, pid INTEGER NOT NULL, born TEXT NOT NULL) WITHOUT ROWID",
    "CREATE TABLE paid (call BLOB NOT NULL, sample INTEGER NOT NULL, PRIMARY KEY (call, sample)) WITHOUT ROWID",
    "INSERT INTO totals (kind) VALUES ('spent'), ('reserved')",
    "INSERT INTO period VALUES (NULL)",
)


class SQLiteStore:
    """A store in an SQLite file with a write-ahead log.

    Every change is one transaction that is in the file before the method returns, so a process may be killed at any
    instant: what it had reserved stays reserved, and counts against the caps, until :meth:`reconcile`. (After a power
    failure the last moments before it may be missing.) Where the file cannot be read or written nothing changes, and a
    :class:`~dynscale_dspy.errors.StorageError` says what to do. The file holds no secret: sums, process ids, and hashes
    of the calls that were paid for.

    Threads and processes may share a store, and a process may fork while it has one: the connection is closed before
    the fork, and parent and child each open their own. Beside the file lies one locked file for each living owner, as
    :mod:`~dynscale_dspy.budget.stores.owners` explains.

    Args:
        path: The file; made if there is none.

    Raises:
        ValueError: If ``path`` is ``":memory:"`` or a URI: what SQLite makes of those is not a file on disk.
        StorageError: If there is a file that is not a budget of this version, or is damaged.
    """

    is_durable = True

    def __init__(self, path: str | os.PathLike[str]) -> None:
        check("path", path, _fields.Path)
        self._path = Path(os.path.abspath(path))  # a process may change its folder
        self._lock = threading.RLock()
        self._connection: sqlite3.Connection | None = None
        self._file: tuple[int, int] | None = None
        self._patience: int | None = None
        self._owner: str | None = None
        self._owner_lock: OwnerLock | None = None
        _stores.add(self)
        with self._lock:
            self._connect(create=True)

    # A copy is the same store. One that is loaded, with a program or a pool, opens the same file.
    def __copy__(self) -> SQLiteStore:
        return self

    def __deepcopy__(self, memo: dict[int, object]) -> SQLiteStore:
        return self

    def __reduce__(self) -> tuple[type[SQLiteStore], tuple[Path]]:
        return SQLiteStore, (self._path,)

    # ---- the budget

    def totals(self) -> tuple[Cost, Cost]:
        """Return what is spent and what is reserved."""
        with self._lock, self._explained():
            return self._totals(self._connect())

    def reserve(self, amount: Cost, limits: Limits) -> Hashable | None:
        """Set an amount aside and return a handle, or None if that would pass a limit."""
        # Random, because SQLite would give out the number of a settled reservation again.
        handle = uuid.uuid4().int >> 66
        try:
            with self._lock, self._explained(), _Transaction(self._connect()) as connection:
                spent, reserved = self._totals(connection)
                if not fits(amount, limits, spent, reserved):
                    return None
                self._write(connection, "reserved", reserved + amount)
                connection.execute(
                    f"INSERT INTO reservations (handle, owner, {_COLUMNS}) VALUES (?, ?, {_MARKS})",
                    (handle, self._owner, *astuple(amount)),
                )
                return handle
        except Exception:
            raise
        except BaseException:  # an interrupt, maybe when it was written: nobody has the handle
            self.settle(handle, Cost())
            raise

    def amend(self, handle: Hashable, amount: Cost, limits: Limits) -> bool:
        """Change what a handle holds; False if that would pass a limit, or if the handle is not open."""
        with self._lock, self._explained(), _Transaction(self._connect()) as connection:
            held = self._held(connection, handle)
            if held is None:
                return False
            spent, reserved = self._totals(connection)
            change = amount - held
            if not fits(change, limits, spent, reserved):
                return False
            self._write(connection, "reserved", reserved + change)
            connection.execute(f"UPDATE reservations SET {_SET} WHERE handle = ?", (*astuple(amount), handle))
            return True

    def settle(self, handle: Hashable, used: Cost, sample: tuple[bytes, int] | None = None) -> None:
        """Release a handle, spend what was used, and note what it paid for."""
        with self._lock, self._explained(), _Transaction(self._connect()) as connection:
            held = self._held(connection, handle)
            if held is None:
                return  # reconcile() has spent it in full
            spent, reserved = self._totals(connection)
            self._write(connection, "reserved", reserved - held)
            if used != Cost():
                self._write(connection, "spent", spent + used)
            connection.execute("DELETE FROM reservations WHERE handle = ?", (handle,))
            if sample is not None:
                connection.execute("INSERT OR IGNORE INTO paid VALUES (?, ?)", sample)

    def paid(self, call: bytes) -> frozenset[int]:
        """Return the numbers of a call's samples that are paid, by whichever process."""
        with self._lock, self._explained():
            rows = self._connect().execute("SELECT sample FROM paid WHERE call = ?", (call,)).fetchall()
        return frozenset(sample for (sample,) in rows)

    def roll(self, period: int) -> None:
        """Begin a period, unless it is not later than the present one."""
        with self._lock, self._explained(), _Transaction(self._connect()) as connection:
            (begun,) = connection.execute("SELECT number FROM period").fetchone()
            if begun is None or begun < period:
                connection.execute("UPDATE period SET number = ?", (period,))
                if begun is not None:
                    self._write(connection, "spent", Cost())

    def reconcile(self, *, refund: bool = False) -> Cost:
        """Settle what dead owners left reserved, as spent or as never used, and return how much that was."""
        with (
            contextlib.ExitStack() as claimed,
            self._lock,
            self._explained(),
            _Transaction(self._connect()) as connection,
        ):
            owners = connection.execute("SELECT owner, pid, born FROM owners WHERE owner != ?", (self._owner,))
            left = Cost()
            for owner in self._dead(owners.fetchall(), claimed):
                rows = connection.execute(f"SELECT {_COLUMNS} FROM reservations WHERE owner = ?", (owner,))
                left = sum((Cost(*row) for row in rows), left)
                connection.execute("DELETE FROM reservations WHERE owner = ?", (owner,))
                connection.execute("DELETE FROM owners WHERE owner = ?", (owner,))
            if left != Cost():
                spent, reserved = self._totals(connection)
                self._write(connection, "reserved", reserved - left)
                if not refund:
                    self._write(connection, "spent", spent + left)
            return left

    # ---- texts

    def note(self, notes: Mapping[str, str]) -> None:
        """Keep texts under their names, all of them or none. An empty text deletes its name."""
        with self._lock, self._explained(), _Transaction(self._connect()) as connection:
            connection.execute("CREATE TABLE IF NOT EXISTS notes (name TEXT PRIMARY KEY, text TEXT) WITHOUT ROWID")
            for name, text in notes.items():
                if text:
                    connection.execute("INSERT OR REPLACE INTO notes VALUES (?, ?)", (name, text))
                else:
                    connection.execute("DELETE FROM notes WHERE name = ?", (name,))

    def notes(self) -> dict[str, str]:
        """Return all texts that are kept, by name."""
        with self._lock, self._explained():
            connection = self._connect()
            if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'notes'").fetchone():
                return {}
            return dict(connection.execute("SELECT name, text FROM notes").fetchall())

    # ---- the file

    def close(self) -> None:
        """Let go of the file. What is still reserved is then left to :meth:`reconcile`.

        A closed store that is used again opens the file again.
        """
        with self._lock:
            if self._owner is None:
                return
            leaves = True
            try:
                with self._lock, self._explained(), _Transaction(self._connect()) as connection:
                    held = "SELECT 1 FROM reservations WHERE owner = ?"
                    leaves = connection.execute(held, (self._owner,)).fetchone() is not None
                    if not leaves:
                        connection.execute("DELETE FROM owners WHERE owner = ?", (self._owner,))
            except (sqlite3.Error, StorageError) as error:
                logger.warning("%s was closed, and still names this process as an owner: %s", self._path, error)
            if self._connection is not None:
                self._connection.close()
                self._connection = None
            if self._owner_lock is not None:
                self._owner_lock.release(keep=leaves)
            self._owner = self._owner_lock = None

    # ---- inside

    def _connect(self, *, create: bool = False) -> sqlite3.Connection:
        """Return the connection, opened anew for the first time, after a fork and after :meth:`close`."""
        if self._connection is not None and _identity(self._path) != self._file:
            raise StorageError(
                f"{self._path} was deleted or replaced while it was in use: put it back, or make a new pool and set "
                "its caps to what is left of the budget"
            )
        if self._connection is None:
            connection = _opened(self._path, create=create)
            try:
                if self._owner is None:
                    self._register(connection)
            except BaseException:
                connection.close()
                raise
            self._file = _identity(self._path)
            self._connection = connection
        return self._connection

    def _register(self, connection: sqlite3.Connection) -> None:
        """Become an owner, and forget dead ones that left nothing, so that their files do not pile up."""
        owner, pid = uuid.uuid4().hex, os.getpid()
        try:
            lock = OwnerLock(self._lock_path(owner))
        except OSError as error:
            raise StorageError(
                f"{self._path} cannot be used to keep a budget in: {error}. {_remedy(self._path, error)}"
            ) from error
        try:
            with contextlib.ExitStack() as claimed, _Transaction(connection):
                idle = connection.execute(
                    "SELECT owner FROM owners WHERE owner NOT IN (SELECT owner FROM reservations)"
                ).fetchall()
                for (gone,) in idle:
                    if self._claimed(gone, claimed):
                        connection.execute("DELETE FROM owners WHERE owner = ?", (gone,))
                connection.execute("INSERT INTO owners VALUES (?, ?, ?)", (owner, pid, _born(pid)))
        except BaseException:
            lock.release()
            raise
        self._owner, self._owner_lock = owner, lock

    def _lock_path(self, owner: str) -> Path:
        return Path(f"{self._path}-owner-{owner}")

    def _claimed(self, owner: str, claimed: contextlib.ExitStack) -> bool | None:
        """Whether an owner is dead, whose lock is then ours until the stack ends; None if it has no lock."""
        try:
            lock = claim(self._lock_path(owner))
        except FileNotFoundError:
            return None
        if lock is None:
            return False
        # Deleted if all goes well: what cannot be written to the file is to be found again.
        claimed.push(lambda error, *_: lock.release(keep=error is not None))
        return True

    def _dead(self, owners: Iterable[tuple[str, int, str]], claimed: contextlib.ExitStack) -> Iterator[str]:
        for owner, pid, born in owners:
            dead = self._claimed(owner, claimed)
            # Owners of version 0.1 have no lock, and neither has anybody where there are none.
            if dead or (dead is None and not _alive(pid, born)):
                yield owner

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Have SQLite's errors say what to do. After one, the next wait for the file is short until it works again."""
        try:
            yield
        except sqlite3.Error as error:
            connection = self._connection
            if connection is not None and self._patience is None:
                with contextlib.suppress(sqlite3.Error):
                    (patience,) = connection.execute("PRAGMA busy_timeout").fetchone()
                    connection.execute(f"PRAGMA busy_timeout = {min(patience, _BUSY_AGAIN)}")
                    self._patience = patience
            raise StorageError(
                f"{self._path} cannot be read or written: {error}. {_remedy(self._path, error)}"
            ) from error
        if self._patience is not None and self._connection is not None:
            self._connection.execute(f"PRAGMA busy_timeout = {self._patience}")
            self._patience = None

    @staticmethod
    def _totals(connection: sqlite3.Connection) -> tuple[Cost, Cost]:
        reserved, spent = connection.execute(f"SELECT {_COLUMNS} FROM totals ORDER BY kind").fetchall()
        return Cost(*spent), Cost(*reserved)

    @staticmethod
    def _write(connection: sqlite3.Connection, kind: str, amount: Cost) -> None:
        connection.execute(f"UPDATE totals SET {_SET} WHERE kind = ?", (*astuple(amount), kind))

    @staticmethod
    def _held(connection: sqlite3.Connection, handle: Hashable) -> Cost | None:
        row = connection.execute(f"SELECT {_COLUMNS} FROM reservations WHERE handle = ?", (handle,)).fetchone()
        return Cost(*row) if row is not None else None


def remove_budget(path: Path) -> None:
    """Delete a budget's file and those that belong to it. No process may use it any more."""
    owners = path.parent.glob(f"{glob.escape(path.name)}-owner-*")
    for gone in (path, Path(f"{path}-wal"), Path(f"{path}-shm"), *owners):
        with contextlib.suppress(OSError):
            gone.unlink()


# ---- forks

# SQLite locks its file per process, and remembers in the process which locks it has. A child inherits that memory but
# no lock: with an inherited connection, or a new one beside it, it would write without locks. So connections are closed
# before a fork, and parent and child each open another when they need one.
_unusable: list[sqlite3.Connection] = []


def _before_fork(store: SQLiteStore) -> None:
    store._lock.acquire()
    connection = store._connection
    # It is in a transaction only if a signal interrupted this thread in one. A file that was deleted cannot be opened
    # again, and nobody else writes to it.
    if connection is not None and not connection.in_transaction and store._path.exists():
        store._connection = None
        with contextlib.suppress(sqlite3.Error):
            connection.close()


def _after_fork(store: SQLiteStore, in_child: bool) -> None:
    if in_child:
        if store._connection is not None:
            _unusable.append(store._connection)  # kept, since to close it would write to the parent's file
        store._connection = store._owner = store._owner_lock = None
    store._lock.release()


_stores = ForkGuard(_before_fork, _after_fork)


# ---- SQLite


def _identity(path: Path) -> tuple[int, int] | None:
    """Which file this is; None if there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _remedy(path: Path, error: Exception) -> str:
    said = str(error)
    if "locked" in said or "busy" in said:
        return "Another process holds it: end that one, or try again"
    if "full" in said or "I/O" in said:
        return "Make room on its disk, and see that it can be written to"
    if not path.parent.is_dir():
        return "Make its folder, or give another path"
    if "readonly" in said or not os.access(
        path.parent, os.W_OK
    ):  # root may not write to a read-only file system either
        return "Make the file and its folder writable, or give another path"
    if "unable to open" in said:
        return "Put the file back, or make a new pool and set its caps to what is left of the budget"
    return "See to the file and its disk; what is reserved is settled once it works again"


class _Transaction:
    """A transaction in a with block. The lock is taken by the block's own function, beside it.

    No generator: one that an interrupt has cut off in the middle is kept by the error, with all that it holds, and
    whenever the error goes would roll back what another thread has begun.

    Args:
        connection: Where.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def __enter__(self) -> sqlite3.Connection:
        self._roll_back()  # what an interrupt left open
        try:
            self._connection.execute("BEGIN IMMEDIATE")
        except BaseException:
            self._roll_back()
            raise
        return self._connection

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        try:
            if kind is None:
                self._connection.execute("COMMIT")
        finally:
            self._roll_back()

    def _roll_back(self) -> None:
        if self._connection.in_transaction:
            self._connection.execute("ROLLBACK")


def _opened(path: Path, *, create: bool) -> sqlite3.Connection:
    """Return a connection to the file, which is examined first; made if there is none and ``create`` is given."""
    try:
        if create and path.exists() and path.stat().st_size > 0:
            _look_over(path)
        connection = _connection(path, "rwc" if create else "rw", check_same_thread=False)
        try:
            _prepare(connection, path, create=create)
        except BaseException:
            connection.close()
            raise
    except (sqlite3.Error, OSError) as error:
        raise StorageError(f"{path} cannot be used to keep a budget in: {error}. {_remedy(path, error)}") from error
    return connection


def _connection(path: Path, mode: str, **options: Any) -> sqlite3.Connection:
    return sqlite3.connect(f"{path.as_uri()}?mode={mode}", uri=True, timeout=_BUSY, isolation_level=None, **options)


def _look_over(path: Path) -> None:
    """Refuse a file that is not ours or is damaged, without writing to it."""
    making = Path(f"{path}-journal").exists()  # another process makes it, or was killed while it did
    application, problems = None, [("ok",)]
    # By SQLite, never by open(): to close the file would release the locks of all connections in this process.
    try:
        with contextlib.closing(_connection(path, "ro&immutable=1")) as connection:
            (application,) = connection.execute("PRAGMA application_id").fetchone()
        if making:
            return  # SQLite finishes it or takes it back
        if application == APPLICATION:
            with contextlib.closing(_connection(path, "ro")) as connection:
                problems = connection.execute("PRAGMA quick_check(1)").fetchall()
    except sqlite3.OperationalError:
        raise
    except sqlite3.DatabaseError as error:
        if "not a database" not in str(error):
            if making:
                return
            application, problems = APPLICATION, [(str(error),)]
    if application != APPLICATION:
        raise StorageError(
            f"{path} is not a budget of this library: it was left as it is. Give another path, or move it away"
        )
    if problems != [("ok",)]:
        raise StorageError(
            f"{path} is damaged ({problems[0][0]}): it was left as it is. Restore a copy, or move it away and set "
            "the caps to what is left of the budget"
        )


def _prepare(connection: sqlite3.Connection, path: Path, *, create: bool) -> None:
    connection.execute("BEGIN EXCLUSIVE")
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if create and (application, version, tables) == (0, 0, 0):
        for statement in _SCHEMA:
            connection.execute(statement)
        connection.execute(f"PRAGMA application_id = {APPLICATION}")
        connection.execute(f"PRAGMA user_version = {VERSION}")
    elif application != APPLICATION or version != VERSION:
        connection.execute("ROLLBACK")
        raise StorageError(
            f"{path} is not a budget of version {VERSION} (application {application:#x}, version {version}): it was "
            "left as it is. Give another path, or move it away"
        )
    connection.execute("COMMIT")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")


def _born(pid: int) -> str:
    """Return when a process started, which tells it from a later one of the same id; empty if that is not known."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    return stat.rpartition(")")[2].split()[19]


def _alive(pid: int, born: str) -> bool:
    """Return whether a process of this system lives, or whether that cannot be told."""
    if os.name == "nt":
        return True  # os.kill would end it
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return not born or _born(pid) in ("", born)
