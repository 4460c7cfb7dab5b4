"""Files of JSON objects, one a line: what recorded samples are kept in."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import IO, Any, Literal, cast


class PoolError(ValueError):
    """A pool cannot be read; the message says which file and line."""


def opened(path: Path, mode: Literal["r", "w"]) -> IO[str]:
    """A text file, compressed if its name ends in ``.gz``."""
    if path.suffix == ".gz":
        return cast(IO[str], gzip.open(path, f"{mode}t", encoding="utf-8"))
    return path.open(mode, encoding="utf-8")


def objects_in(path: Path, keys: Collection[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The objects of a file, each with words for its place; blank lines are left out.

    Args:
        path: The file.
        keys: What each object must have, an ``"id"`` (a string or an integer) among them, different for each.

    Raises:
        PoolError: If a line is no such object, or the file cannot be read to its end.
        FileNotFoundError: If there is no such file.
    """
    seen: dict[str, int] = {}
    number = 0
    with opened(path, "r") as file:
        try:
            for number, line in enumerate(file, 1):
                if not line.strip():
                    continue
                where = f"{path}:{number}"
                row = _object(line, keys, where)
                name = str(row["id"])
                if name in seen:
                    raise PoolError(f"{where}: question {name!r} is on line {seen[name]} already")
                seen[name] = number
                yield where, row
        except (OSError, EOFError, UnicodeDecodeError) as error:
            raise PoolError(f"{path}: cannot be read after line {number}: {error}") from error


def items_of(
    row: dict[str, Any], key: str, where: str, good: Callable[[Any], bool], what: str, length: int | None = None
) -> list[Any]:
    """A list in an object.

    Args:
        row: The object.
        key: The list's name in it.
        where: Its place, for the message.
        good: Whether a value may be in it.
        what: Words for such values.
        length: The answers for which there must be one value each; None for any number.

    Raises:
        PoolError: If it is no such list.
    """
    values = row[key]
    if not isinstance(values, list):
        raise PoolError(f"{where}: {key!r} must be a list, got {type(values).__name__}")
    for value in values:
        if not good(value):
            raise PoolError(f"{where}: {key!r} must hold {what}, got {value!r}")
    if length is not None and len(values) != length:
        raise PoolError(f"{where}: {length} answers but {len(values)} {key!r}")
    return values


def _object(line: str, keys: Collection[str], where: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise PoolError(f"{where}: not JSON: {error}") from None
    if not isinstance(row, dict):
        raise PoolError(f"{where}: expected an object, got {type(row).__name__}")
    for key in keys:
        if key not in row:
            raise PoolError(f"{where}: no {key!r}")
    if not isinstance(row["id"], (str, int)):
        raise PoolError(f"{where}: 'id' must be a string, got {row['id']!r}")
    return row
