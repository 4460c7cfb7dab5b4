"""The types that settings are declared with, such as ``samples: Count | None``.

A type holds everything about a kind of value: which values are allowed, the error for others, and how JSON holds it.
Pydantic models check their fields by themselves, a dataclass calls :func:`check_fields` in its ``__post_init__``, and
a function calls :func:`check` for a single argument.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import os
import re
import sys
import typing
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Annotated, Any, Literal, NoReturn

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

PERIODS = {"hour": 3600.0, "day": 86400.0}
"""Length in seconds of each period that has a name."""


class Refused(ValueError):
    """Raised by a check for a value that is not allowed. It does not reach users: :meth:`of` makes the error they see.

    Args:
        words: The message without the argument's name: what would be right, and what was given.
        kind: The class of the error that users see.
    """

    def __init__(self, words: str, kind: type[Exception] = ValueError) -> None:
        super().__init__(words)
        self.kind = kind

    def of(self, *name: object) -> Exception:
        """Return the error for users, with the argument's name before the message.

        Args:
            name: The argument's name; none if the message is about several arguments.
        """
        return self.kind(" ".join([*map(str, name), str(self)]))


class Unsaved(Exception):
    """Raised for a value that JSON cannot hold: a function, or an object of the user's own class."""


class Check(ABC):
    """Tells which values a setting may have, and how JSON holds them. It stands in the setting's ``Annotated`` type."""

    @abstractmethod
    def check(self, value: Any) -> Any:
        """Return the value in the form in which it is kept.

        Raises:
            Refused: If it is not allowed.
        """

    def dump(self, value: Any) -> Any:
        """Return a checked value as JSON.

        Raises:
            Unsaved: If JSON cannot hold it.
        """
        return value

    def load(self, saved: Any) -> Any:
        """Return the value that :meth:`dump` wrote, checked again.

        Raises:
            Refused: If it is not allowed.
        """
        return self.check(saved)

    def bound(self, type_: Any) -> Check:
        """Return the check to use for the type that this one annotates; :class:`Words` reads its words from it."""
        return self

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self.bound(source).check)


@dataclass(frozen=True)
class Number(Check):
    """A check for a number. It refuses bools and NaN.

    Args:
        least: The smallest number allowed.
        above: What the number must be greater than.
        most: The largest number allowed; by default the largest finite one.
        below: What the number must be less than.
        kind: What the message of the ``TypeError`` asks for.
        bounds: What the message of the ``ValueError`` asks for; by default made from ``least`` and ``below``.
        one_error: Whether a value of the wrong type raises that ``ValueError`` too, as policies and strategies do.
    """

    least: float | None = None
    above: float | None = None
    most: float | None = sys.float_info.max
    below: float | None = None
    kind: str = "a number"
    bounds: str | None = None
    one_error: bool = False

    types: typing.ClassVar[tuple[type, ...]] = (int, float)

    def check(self, value: Any) -> Any:
        """The number itself."""
        if isinstance(value, bool) or not isinstance(value, self.types):
            if self.one_error:
                _refuse(self.bounds or self.kind, value)
            _refuse(self.kind, value, TypeError)
        too_small = (self.least is not None and not value >= self.least) or (
            self.above is not None and not value > self.above
        )
        too_large = (self.most is not None and not value <= self.most) or (
            self.below is not None and not value < self.below
        )
        if too_small or too_large:
            _refuse(self.bounds or self._bound(value), value)
        return value

    def _bound(self, value: Any) -> str:
        """Return the bound that a number violates, in words."""
        if value != value or abs(value) > sys.float_info.max:
            return "finite"
        return f"at least {self.least}" if self.least is not None and value < self.least else f"below {self.below}"


@dataclass(frozen=True)
class Integer(Number):
    """A check for an ``int``. The arguments are those of :class:`Number`, and ``bits``.

    Args:
        bits: The number must be below 2 to this power, so that a store can keep it in 64 bits.
    """

    most: float | None = None
    kind: str = "an integer"
    bits: int | None = None

    types: typing.ClassVar[tuple[type, ...]] = (int,)

    def check(self, value: Any) -> Any:
        """The number itself."""
        super().check(value)
        if self.bits is not None and value >= 2**self.bits:
            _refuse(f"below 2**{self.bits}", value)
        return value

    def _bound(self, value: Any) -> str:
        return f"at least {self.least}"


@dataclass(frozen=True)
class Flag(Check):
    """A check for True or False. It refuses 0 and 1."""

    def check(self, value: Any) -> bool:
        """The flag itself."""
        if not isinstance(value, bool):
            _refuse("True or False", value, TypeError)
        return value


@dataclass(frozen=True)
class Words(Check):
    """A check for one of a few words; by default those of the ``Literal`` that it annotates."""

    words: tuple[str, ...] = ()

    def check(self, value: Any) -> str:
        """The word itself."""
        if not isinstance(value, str) or value not in self.words:
            _refuse(_listed(self.words), value)
        return value

    def bound(self, type_: Any) -> Check:
        """Return a check for the words of the ``Literal``, if this one has none of its own."""
        return self if self.words else Words(typing.get_args(type_))


@dataclass(frozen=True)
class FlagOrWord(Words):
    """A check for True, False, or one of a few words. It refuses 0 and 1."""

    def check(self, value: Any) -> Any:
        """The flag or word itself."""
        if isinstance(value, bool) or (isinstance(value, str) and value in self.words):
            return value
        wanted = f"True, False or {' or '.join(map(repr, self.words))}"
        return _refuse(wanted, value, ValueError if isinstance(value, str) else TypeError)


@dataclass(frozen=True)
class SomeOf(Check):
    """A check for names among a few; they become a tuple in the order of those few. A single one may stand alone."""

    names: tuple[str, ...]

    def check(self, value: Any) -> tuple[str, ...]:
        """The names as a tuple, each once."""
        given = (value,) if isinstance(value, str) else tuple(value) if isinstance(value, Iterable) else (value,)
        if not all(isinstance(name, str) and name in self.names for name in given):
            _refuse(f"names among {', '.join(map(repr, self.names))}", value)
        return tuple(name for name in self.names if name in given)

    def dump(self, value: Any) -> list[str]:
        """The names as a list."""
        return list(value)


@dataclass(frozen=True)
class Function(Check):
    """A check for anything that can be called. JSON cannot hold it.

    Args:
        default: The function that None stands for; without one, None is refused.
    """

    default: Callable[..., Any] | None = None

    def check(self, value: Any) -> Any:
        """The function itself."""
        if value is None and self.default is not None:
            return self.default
        if not callable(value):
            _refuse("callable", value, TypeError)
        return value

    def dump(self, value: Any) -> Any:
        """Raise: a function is never saved."""
        raise Unsaved


@dataclass(frozen=True)
class WordOrFunction(Words):
    """A check for one of a few words, or a function.

    Args:
        words: The words.
        function: What else it may be, as the message of the error puts it.
    """

    function: str = "a function"

    def check(self, value: Any) -> Any:
        """The word or function itself."""
        options = f"{', '.join(map(repr, self.words))}, {self.function}"
        if isinstance(value, str):
            if value not in self.words:
                _refuse(options, value)
        elif not callable(value):
            _refuse(options, value, TypeError)
        return value

    def dump(self, value: Any) -> str:
        """The word."""
        if not isinstance(value, str):
            raise Unsaved
        return value


@dataclass(frozen=True)
class FieldNames(Check):
    """A check for names of output fields, or a function of a prediction. A single name becomes a tuple."""

    def check(self, value: Any) -> Any:
        """The names as a tuple, or the function."""
        if callable(value):
            return value
        names = (value,) if isinstance(value, str) else tuple(value) if isinstance(value, Iterable) else ()
        if not names or not all(isinstance(name, str) for name in names):
            _refuse("an output field's name, a list of names or a function", value, TypeError)
        return names

    def dump(self, value: Any) -> list[str]:
        """The names as a list."""
        if callable(value):
            raise Unsaved
        return list(value)


@dataclass(frozen=True)
class OneOf(Check):
    """A check for an object of one family of frozen dataclasses: a strategy, or a policy.

    Args:
        base: The base class of the family, or several; users may derive classes of their own from it.
        kind: What the message of the error asks for.
        known: The classes of this library. Objects of others are not saved.
        default: The class whose object None stands for.
    """

    base: type | tuple[type, ...]
    kind: str
    known: tuple[type, ...]
    default: type

    def check(self, value: Any) -> Any:
        """The object itself."""
        if value is None:
            return self.default()
        if not isinstance(value, self.base):
            _refuse(self.kind, value, TypeError)
        return value

    def dump(self, value: Any) -> dict[str, Any]:
        """The name of its class, and its own settings."""
        if type(value) not in self.known:
            raise Unsaved
        return {"name": type(value).__name__, **dataclasses.asdict(value)}

    def load(self, saved: Any) -> Any:
        """The object of the named class with the saved settings."""
        try:
            settings = dict(saved)
            named = {one.__name__: one for one in self.known}
            return named[settings.pop("name")](**settings)
        except (KeyError, TypeError, ValueError) as error:
            raise Refused(f"is unknown to this version: {error!r}, got {saved!r}") from None


@dataclass(frozen=True)
class Dollars(Check):
    """A check for an amount of money of at least a billionth of a dollar."""

    def check(self, value: Any) -> Any:
        """The amount as it was given."""
        if isinstance(value, bool) or not isinstance(value, (int, float, Decimal)):
            _refuse("a number", value, TypeError)
        if not 1 <= self.nano(value) < 2**62:
            _refuse("at least 0.000000001 and below 4.6 billion", value)
        return value

    @staticmethod
    def nano(value: Any) -> int:
        """Return an amount in billionths of a dollar. The float 0.1 counts as a tenth, as it was written."""
        try:
            return int(Decimal(str(value)) * 10**9)
        except (InvalidOperation, OverflowError, ValueError):
            _refuse("a finite number", value)

    def dump(self, value: Any) -> Any:
        """The amount; a ``Decimal`` as text, so that no digit is lost."""
        return str(value) if isinstance(value, Decimal) else value

    def load(self, saved: Any) -> Any:
        """The amount; text becomes a ``Decimal``."""
        try:
            return self.check(Decimal(saved) if isinstance(saved, str) else saved)
        except InvalidOperation:
            _refuse("a number", saved)


@dataclass(frozen=True)
class PeriodOfTime(Number):
    """A check for a length of time: a name in :data:`PERIODS`, or a number of seconds."""

    above: float | None = 0
    kind: str = "a number of seconds"
    bounds: str | None = "a positive, finite number of seconds"

    def check(self, value: Any) -> Any:
        """The word or number itself."""
        if isinstance(value, str):
            if value not in PERIODS:
                _refuse("'hour', 'day' or a number of seconds", value)
            return value
        super().check(value)
        if value < 1:
            _refuse("at least 1 second", value)
        return value

    @staticmethod
    def seconds(value: str | float) -> float:
        """Return a length of time in seconds."""
        return PERIODS[value] if isinstance(value, str) else float(value)


_NO_FILE = re.compile(r":memory:|file:|[A-Za-z][A-Za-z0-9+.-]+:/", re.IGNORECASE)
"""How the names of databases in memory and URIs begin, which look like a path and are none."""


@dataclass(frozen=True)
class FilePath(Check):
    """A check for the path of a file, which need not exist."""

    def check(self, value: Any) -> Any:
        """The path as it was given."""
        if not isinstance(value, (str, os.PathLike)):
            _refuse("a file's path, text or a pathlib.Path", value, TypeError)
        text = os.fspath(value)
        if not isinstance(text, str) or not text.strip():
            _refuse("the path of a file", value)
        if _NO_FILE.match(text):
            _refuse("the path of a file that processes can share, and not a name that SQLite reads otherwise", value)
        return value

    def dump(self, value: Any) -> Any:
        """The path as text."""
        return os.fspath(value)


Count = Annotated[int, Integer(least=1, bits=62)]
"""A number of things that a pool counts in its store."""
AtLeastOne = Annotated[int, Integer(least=1)]
"""A number of things with no upper bound."""
Size = Annotated[int, Integer(least=1, bounds="an integer of at least 1", one_error=True)]
"""A number of things, as an option of a strategy."""
Whole = Annotated[int, Integer()]
WholeSize = Annotated[int, Integer(least=0, bounds="an integer of at least 0", one_error=True)]
"""A number of things, maybe none, as an option of a strategy."""
Seconds = Annotated[float, Number(above=0, kind="a number of seconds", bounds="a positive, finite number of seconds")]
SamplesPerCall = Annotated[
    float,
    Number(least=1, most=None, below=math.inf, kind="a number of samples", bounds="a finite number of at least 1"),
]
Temperature = Annotated[float, Number(least=0)]
Probability = Annotated[float, Number(least=0, most=1, kind="a number between 0 and 1", bounds="between 0 and 1")]
ShareSpent = Annotated[float, Number(above=0, most=1, kind="a number between 0 and 1", bounds="between 0 and 1")]
"""The share of a cap that is spent, not 0."""
Quantile = Annotated[
    float,
    Number(
        above=0,
        below=1,
        kind="a quantile such as 0.95",
        bounds="a quantile between 0 and 1, such as 0.95",
    ),
]
Fraction = Annotated[float, Number(above=0, most=1, bounds="above 0 and at most 1")]
ShareOfSamples = Annotated[float, Number(above=0, most=1, bounds="a number above 0 and at most 1", one_error=True)]
"""A share of samples, as an option of a strategy."""
VoteWeight = Annotated[float, Number(above=0, bounds="a finite number above 0", one_error=True)]
"""What a vote counts, as an option of a strategy."""
Toll = Annotated[float, Number(least=0, bounds="a finite number of at least 0", one_error=True)]
"""A factor of prices, as an option of a strategy."""
YesNo = Annotated[bool, Flag()]
Money = Annotated[float | Decimal, Dollars()]
Period = Annotated[Literal["hour", "day"] | float, PeriodOfTime()]
Path = Annotated[str | os.PathLike[str], FilePath()]
AnswerFields = Annotated[str | Sequence[str] | Callable[..., Any], FieldNames()]
"""What part of a prediction is the answer."""
OneOfWords = Words()
"""Annotates a ``Literal``: ``Annotated[Literal["all", "last"], OneOfWords]``."""


@dataclass(frozen=True)
class Field:
    """How one setting is declared.

    Args:
        check: What it may be.
        optional: Whether it may be None too.
    """

    check: Check
    optional: bool = False

    def checked(self, value: Any) -> Any:
        """Return the value in the form in which it is kept.

        Raises:
            Refused: If it is not allowed.
        """
        return None if value is None and self.optional else self.check.check(value)

    def dump(self, value: Any) -> Any:
        """Return a checked value as JSON.

        Raises:
            Unsaved: If JSON cannot hold it.
        """
        return None if value is None and self.optional else self.check.dump(value)

    def load(self, saved: Any) -> Any:
        """Return the value that :meth:`dump` wrote, checked again.

        Raises:
            Refused: If it is not allowed.
        """
        return None if saved is None and self.optional else self.check.load(saved)


def field_of(declared: Any, metadata: Iterable[Any] = ()) -> Field | None:
    """Return the field that a type such as ``Count`` or ``Count | None`` declares; None if no check is in the type.

    Args:
        declared: The type.
        metadata: Its annotations, where pydantic has separated them from the type.
    """
    for found in metadata:
        if isinstance(found, Check):
            return Field(found.bound(declared))
    if typing.get_origin(declared) is Annotated:
        base, *annotations = typing.get_args(declared)
        return field_of(base, annotations)
    for part in typing.get_args(declared):
        if part is not type(None) and (field := field_of(part)) is not None:
            return Field(field.check, optional=type(None) in typing.get_args(declared))
    return None


def check(name: str, value: Any, declared: Any) -> Any:
    """Check one argument of a function and return it in the form in which it is kept: ``check("calls", calls, Count)``.

    Raises:
        TypeError: If it has the wrong type.
        ValueError: If it is out of range.
    """
    field = field_of(declared)
    assert field is not None
    try:
        return field.checked(value)
    except Refused as refused:
        raise refused.of(name) from None


@functools.cache
def fields_of(owner: type) -> Mapping[str, Field]:
    """Return the fields of a dataclass that are settings, by name."""
    hints = typing.get_type_hints(owner, include_extras=True)
    fields = {field.name: field_of(hints[field.name]) for field in dataclasses.fields(owner)}
    return {name: field for name, field in fields.items() if field is not None}


def check_fields(value: Any, owner: type) -> None:
    """Check all settings of a dataclass's object. To be called in ``__post_init__``.

    Args:
        value: The object.
        owner: The class whose settings are checked. Those that a subclass adds are its own affair.

    Raises:
        TypeError: If one has the wrong type.
        ValueError: If one is out of range.
    """
    for name, field in fields_of(owner).items():
        try:
            field.checked(getattr(value, name))
        except Refused as refused:
            raise refused.of(name) from None


def _refuse(wanted: str, value: Any, kind: type[Exception] = ValueError) -> NoReturn:
    raise Refused(f"must be {wanted}, got {value!r}", kind)


def _listed(words: Iterable[str]) -> str:
    *others, last = map(repr, words)
    return f"{', '.join(others)} or {last}" if others else last
