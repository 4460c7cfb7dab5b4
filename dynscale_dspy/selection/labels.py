"""The labels of a closed type, and which of them a text may be the beginning of."""

from __future__ import annotations

import html
import json
import types
from bisect import bisect_left
from collections.abc import Collection, Iterator, Sequence
from enum import Enum
from typing import Annotated, Any, Literal, Union, get_args, get_origin

BEFORE = b" \t\r\n\"'`*"
"""What models write before a label that is no part of it: space, quotes, marks of emphasis."""
_AFTER = BEFORE + b".,:;!?)]}<|\\"
"""What may follow a label, none of which goes on with it."""


def labels_of(annotation: Any) -> tuple[Any, ...] | None:
    """The values of a type that has a few, each a label: of a Literal, an Enum, a bool, or a union of such.

    Args:
        annotation: The type, as a signature declares it.

    Returns:
        The values in the order in which they are declared; None of a type that has other values.

    Example:
        >>> labels_of(Literal["yes", "no"] | None), labels_of(bool), labels_of(str)
        (('yes', 'no', None), (True, False), None)
    """
    found = _values(annotation)
    if found is None:
        return None
    return tuple({(type(value), value): value for value in found}.values())  # True is no 1


def _values(annotation: Any) -> list[Any] | None:
    origin = get_origin(annotation)
    if origin is Annotated:
        return _values(get_args(annotation)[0])
    if origin in (Union, types.UnionType):
        parts = [_values(part) for part in get_args(annotation)]
        return None if None in parts else [value for part in parts for value in part or ()]
    if origin is Literal:
        return list(get_args(annotation))
    if annotation is bool:
        return [True, False]
    if annotation in (None, type(None)):
        return [None]
    return list(annotation) if isinstance(annotation, type) and issubclass(annotation, Enum) else None


class Labels:
    r"""A few values, told from each other by how models write them.

    A label is known by its exact spelling; an enum's member by its value and its name; True, False and None by the
    words that DSPy reads as such; and each in another case, or as JSON and XML write it. A spelling that could be of
    two labels is that of the more exact one, or of none.

    Args:
        values: The values.

    Raises:
        ValueError: If one has no spelling, such as ``""``, so that nothing tells when it has been written.

    Example:
        >>> labels = Labels(["entailment", "entails", "neutral"])
        >>> labels.begun(b' "Ent'), labels.begun(b"entails"), labels.begun(b"neutral.\n"), labels.begun(b"maybe")
        (frozenset({0, 1}), frozenset({1}), frozenset({2}), frozenset())
    """

    def __init__(self, values: Sequence[Any]) -> None:
        self.values = tuple(values)
        self.all = frozenset(range(len(self.values)))
        """The position of every value."""
        exact, other = [_exact(value) for value in self.values], [_other(value) for value in self.values]
        cased = [[*_cased(one), *_cased(two)] for one, two in zip(exact, other, strict=True)]
        self._spellings: dict[bytes, int | None] = {}
        for level in (exact, other, cased):
            claims: dict[bytes, set[int]] = {}
            for label, spellings in enumerate(level):
                for spelling in spellings:
                    claims.setdefault(spelling.encode("utf-8", "replace").strip(BEFORE), set()).add(label)
            for spelling, claiming in claims.items():
                if spelling not in self._spellings:
                    self._spellings[spelling] = next(iter(claiming)) if len(claiming) == 1 else None
        known = {label for label in self._spellings.values() if label is not None}
        if known != self.all or b"" in self._spellings:
            raise ValueError(f"labels must each have a spelling of their own, got {list(self.values)!r}")
        self._sorted = sorted(spelling for spelling, label in self._spellings.items() if label is not None)
        self._longest = max(map(len, self._sorted))

    @staticmethod
    def is_blank(text: bytes) -> bool:
        """Whether a text says nothing yet of any label."""
        return not text.strip(BEFORE)

    def begun(self, text: bytes) -> frozenset[int]:
        """Positions of the labels that a text may be the beginning of, or begins with.

        Args:
            text: What is written where the label belongs, so far, in UTF-8. Whole characters are not needed.

        Returns:
            All labels while it says nothing yet; none if it is no label's.
        """
        said = text.lstrip(BEFORE)
        if not said:
            return self.all
        ahead: set[int | None] = set()
        for place in range(bisect_left(self._sorted, said), len(self._sorted)):
            if not self._sorted[place].startswith(said):
                break
            ahead.add(self._spellings[self._sorted[place]])
        for end in range(min(len(said) - 1, self._longest), 0, -1):
            complete = self._spellings.get(said[:end])
            if complete is not None and said[end : end + 1] in _ENDS:
                if not ahead or not said[end:].strip(BEFORE):
                    ahead.add(complete)  # while "not s" goes on as "not sure" does, which "not" cannot
                break
        return frozenset(label for label in ahead if label is not None)


_ENDS: Collection[bytes] = frozenset(bytes([byte]) for byte in _AFTER)


def _exact(value: Any) -> list[str]:
    if isinstance(value, Enum):
        return _written(str(value.value))
    return _written(value if isinstance(value, str) else str(value))


def _other(value: Any) -> list[str]:
    if isinstance(value, Enum):
        return _written(value.name)
    if isinstance(value, bool):
        return ["true", "yes", "1", "on", "t", "y"] if value else ["false", "no", "0", "off", "f", "n"]
    return ["null"] if value is None else []


def _cased(spellings: Collection[str]) -> Iterator[str]:
    for spelling in spellings:
        yield from (spelling.lower(), spelling.upper(), spelling.capitalize(), spelling.title())


def _written(text: str) -> list[str]:
    """A text as it stands, and in the framings of DSPy's adapters."""
    return [text, json.dumps(text)[1:-1], json.dumps(text, ensure_ascii=False)[1:-1], html.escape(text, quote=False)]
