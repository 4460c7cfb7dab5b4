"""A ledger's sums in a file: shared by the processes of one machine, and still right after any of them was killed."""

from __future__ import annotations

import logging
import os
import sqlite3
import uuid
from collections.abc import Hashable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import astuple, fields
from pathlib import Path

from dynscale_dspy.allocation.costs import Cost
from dynscale_dspy.budget.stores.base import Limits, fits
from dynscale_dspy.errors import StorageError

logger = logging.getLogger(__name__)

APPLICATION = 0x44594E53
"""Marks a file as ours: "DYNS", in the header field that SQLite has for that."""
VERSION = 1
_MAGIC = b"SQLite format 3\0"
_BUSY = 60.0

# The file keeps the names that requests had in version 0.1, so that its files and ours are alike.
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
    """Keeps a ledger's sums in an SQLite file with a write-ahead log.

    Every change is one transaction that is in the file before it returns, so a process may be killed at any instant:
    what it had reserved stays reserved, and counts against the caps, until :meth:`reconcile`. (After a power failure
    the last moments before it may be missing.) There is no secret in the file: sums, process ids, and hashes of the
    calls that were paid for.

    Not thread safe on its own: the pool holds one lock around each use. Safe between processes.

    Args:
        path: The file; made if there is none.

    Raises:
        StorageError: If there is a file that is not a budget of this version, or is damaged.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path)
        self._pid = -1
        self._connect()

    # ---- what a ledger needs

    def totals(self) -> tuple[Cost, Cost]:
        """What is spent, and what is reserved."""
        return self._totals(self._connect())

    def reserve(self, amount: Cost, limits: Limits) -> Hashable | None:
        """Set an amount aside, or return None."""
        with self._transaction() as connection:
            spent, reserved = self._totals(connection)
            if not fits(amount, limits, spent, reserved):
                return None
            self._write(connection, "reserved", reserved + amount)
            row = connection.execute(
                f"INSERT INTO reservations (owner, {_COLUMNS}) VALUES (?, {_MARKS})", (self._owner, *astuple(amount))
            )
            return row.lastrowid

    def amend(self, handle: Hashable, amount: Cost, limits: Limits) -> bool:
        """Hold another amount, or return False."""
        with self._transaction() as connection:
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
        """Release a handle, spend what was used, and note what it paid for.

        A file that cannot be written any more costs no answer: what was reserved then stays reserved.
        """
        try:
            with self._transaction() as connection:
                held = self._held(connection, handle)
                if held is None:
                    return  # settled by reconcile() as spent in full
                spent, reserved = self._totals(connection)
                self._write(connection, "reserved", reserved - held)
                if used != Cost():
                    self._write(connection, "spent", spent + used)
                connection.execute("DELETE FROM reservations WHERE handle = ?", (handle,))
                if sample is not None:
                    connection.execute("INSERT OR IGNORE INTO paid VALUES (?, ?)", sample)
        except sqlite3.Error as error:
            logger.error("a sample could not be settled in %s and stays reserved: %s", self._path, error)

    def paid(self, call: bytes) -> frozenset[int]:
        """The samples of a call that are paid already, whichever process did."""
        rows = self._connect().execute("SELECT sample FROM paid WHERE call = ?", (call,))
        return frozenset(sample for (sample,) in rows)

    def roll(self, period: int) -> None:
        """Begin a period, unless it has begun."""
        with self._transaction() as connection:
            (begun,) = connection.execute("SELECT number FROM period").fetchone()
            if begun is None or begun < period:
                connection.execute("UPDATE period SET number = ?", (period,))
                if begun is not None:  # what was spent before there were periods counts in the first
                    self._write(connection, "spent", Cost())

    # ---- for whoever keeps more beside the sums

    def note(self, notes: Mapping[str, str]) -> None:
        """Keep texts under their names, all of them or none; an empty text is forgotten."""
        with self._transaction() as connection:
            connection.execute("CREATE TABLE IF NOT EXISTS notes (name TEXT PRIMARY KEY, text TEXT) WITHOUT ROWID")
            for name, text in notes.items():
                if text:
                    connection.execute("INSERT OR REPLACE INTO notes VALUES (?, ?)", (name, text))
                else:
                    connection.execute("DELETE FROM notes WHERE name = ?", (name,))

    def notes(self) -> dict[str, str]:
        """The texts that are kept."""
        connection = self._connect()
        if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'notes'").fetchone():
            return {}
        return dict(connection.execute("SELECT name, text FROM notes"))

    # ---- for people

    def reconcile(self, *, refund: bool = False) -> Cost:
        """Settle what dead processes left reserved, as spent or as never used. Returns how much that was."""
        with self._transaction() as connection:
            owners = connection.execute("SELECT owner, pid, born FROM owners").fetchall()
            dead = [owner for owner, pid, born in owners if owner != self._owner and not _alive(pid, born)]
            left = Cost()
            for owner in dead:
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

    def close(self) -> None:
        """Let go of the file."""
        if self._pid == os.getpid():
            self._connection.close()
        self._pid = -1

    # ---- inside

    def _connect(self) -> sqlite3.Connection:
        if self._pid != os.getpid():  # the first time, or after a fork: a connection must not cross it
            self._connection = _opened(self._path)
            self._pid = os.getpid()
            self._owner = uuid.uuid4().hex
            with self._transaction() as connection:
                connection.execute("INSERT INTO owners VALUES (?, ?, ?)", (self._owner, self._pid, _born(self._pid)))
        return self._connection

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        connection = self._connect()
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield connection
        except BaseException:
            connection.execute("ROLLBACK")
            raise
        connection.execute("COMMIT")

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


def _opened(path: Path) -> sqlite3.Connection:
    """A connection to the file, which is made if there is none and looked over if there is."""
    try:
        if path.exists() and path.stat().st_size > 0:
            _look_over(path)
        connection = sqlite3.connect(path, timeout=_BUSY, isolation_level=None, check_same_thread=False)
        try:
            _prepare(connection, path)
        except BaseException:
            connection.close()
            raise
    except (sqlite3.Error, OSError) as error:
        raise StorageError(f"{path} cannot be used to keep a budget in: {error}") from error
    return connection


def _look_over(path: Path) -> None:
    """Refuse a file that is not ours, before SQLite may write to it."""
    with path.open("rb") as file:
        header = file.read(100)
    making = Path(f"{path}-journal").exists()  # another process is at it, or was killed at it: SQLite will see to it
    if not header.startswith(_MAGIC) or (not making and int.from_bytes(header[68:72], "big") != APPLICATION):
        raise StorageError(
            f"{path} is not a budget of this library: it was left as it is. Give another path, or move it away"
        )
    if making:
        return
    connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=_BUSY)
    try:
        problems = connection.execute("PRAGMA quick_check(1)").fetchall()
    except sqlite3.DatabaseError as error:
        problems = [(str(error),)]
    finally:
        connection.close()
    if problems != [("ok",)]:
        raise StorageError(
            f"{path} is damaged ({problems[0][0]}): it was left as it is. Restore a copy, or move it away and set "
            "the caps to what is left of the budget"
        )


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    connection.execute("BEGIN EXCLUSIVE")
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if (application, version, tables) == (0, 0, 0):
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
    """When a process started, so that one that was given its number later is not taken for it; empty if unknown."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    return stat.rpartition(")")[2].split()[19]


def _alive(pid: int, born: str) -> bool:
    if os.name == "nt":
        return True  # cannot be told without harm: what is reserved stays so
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return not born or _born(pid) in ("", born)
