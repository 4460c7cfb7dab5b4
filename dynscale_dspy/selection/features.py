"""What is compared of texts that are alike but not equal: the text of any answer, its words, its runs of characters."""

from __future__ import annotations

import dataclasses
import re
import unicodedata
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Mapping
from enum import Enum
from typing import Any

import numpy as np
import pydantic

from dynscale_dspy.selection.answers import DEEPEST, MOST_PARTS, Record, UnreadableAnswer, fields_of_model
from dynscale_dspy.selection.text import exact_text

LONGEST = 20_000
"""Characters of a text whose runs are compared. What comes after them is left out: runs cost memory."""
LONGEST_OF_WORDS = 100_000
"""Characters of a text whose words are compared. What comes after them is left out: words cost time."""

# Scripts that set no spaces between words: there each character is a token of its own.
_UNSPACED = (
    "\u0e01-\u0e3a\u0e40-\u0e59\u0e81-\u0ed9\u0f20-\u0fbc\u1000-\u1049\u1780-\u17d3\u2e80-\u2fd5\u3005-\u3007"
    "\u3041-\u3096\u30a1-\u30fa\u30fc\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
)
# Marks above and below letters, which are no letters to Python: of Latin, Hebrew, Arabic and the scripts of India.
_MARKS = (
    "\u0300-\u036f\u0483-\u0487\u0591-\u05c7\u0610-\u061a\u064b-\u065f\u0670\u06d6-\u06ed\u0900-\u0963\u0970-\u0dff"
)
_LETTER = rf"(?:(?![{_UNSPACED}])(?:[^\W_]|[{_MARKS}]))"
_NUMBER = r"(?<![\w)])[-−]?\d+(?:[.,]\d+)+|(?<![\w)])[-−]\d+"
_SIGN = "[+<=>%$€£¥₹×÷^&|~@]"
_TOKEN = re.compile(rf"{_NUMBER}|{_LETTER}+(?:['’_]{_LETTER}+)*|[{_UNSPACED}]|{_SIGN}")
_ASCII_TOKEN = re.compile(rf"{_NUMBER}|[a-z0-9]+(?:['_][a-z0-9]+)*|[+<=>%$^&|~@]", re.ASCII)

_ORDER_BITS, _TIMES_BITS = 3, 12
_PRIME = np.uint64(0x9E3779B97F4A7C15)
_MIX = np.uint64(0xBF58476D1CE4E5B9)
_SHIFT = np.uint64(31)
_TIMES = np.uint64(_TIMES_BITS)
_KEPT = np.uint64((1 << (64 - _ORDER_BITS)) - (1 << _TIMES_BITS))
_PLACE = np.uint64(64 - _ORDER_BITS)


def text_of(answer: Any) -> str:
    r"""The text of any answer: what a reader would compare of it.

    Values of a record, a model, a list or a dict come one by one, each on a line, those of a dict with their keys;
    those of a set come in alphabetical order.

    Args:
        answer: An answer as the program gave it. None has no text.

    Raises:
        UnreadableAnswer: If the answer is nested more than 100 levels deep, contains itself, has more than 100,000
            parts, or raises an error as it is read.

    Example:
        >>> text_of("Paris"), text_of(["a", 1, None]), text_of({"name": "Ada"}), text_of(None)
        ('Paris', 'a\n1', 'name\nAda', '')
    """
    try:
        if isinstance(answer, str) and not isinstance(answer, Enum):
            return exact_text(str.__str__(answer))
        return exact_text("\n".join(_Leaves().of(answer, 0)))
    except UnreadableAnswer:
        raise
    except Exception as error:
        # Of the user's classes; their words may hold what does not belong in a log.
        raise UnreadableAnswer(f"an answer cannot be read: {type(error).__name__}") from None


class _Leaves:
    """The texts in one answer, one by one; it counts the parts, so that reading always ends."""

    def __init__(self) -> None:
        self._left = MOST_PARTS

    def of(self, value: Any, depth: int) -> Iterator[str]:
        """The texts in a part of the answer that is so deep in it."""
        self._left -= 1
        if depth > DEEPEST or self._left < 0:
            raise UnreadableAnswer(
                f"an answer is nested more than {DEEPEST} levels deep, contains itself, or has more than "
                f"{MOST_PARTS:,} parts"
            )
        below = depth + 1
        if value is None:
            return
        if isinstance(value, Enum):
            yield str(value.value)
        elif isinstance(value, str):
            yield str.__str__(value)
        elif isinstance(value, Mapping) and not isinstance(value, Record):
            for key, item in value.items():
                yield str(key)
                yield from self.of(item, below)
        elif isinstance(value, (set, frozenset)):
            yield from sorted("\n".join(self.of(item, below)) for item in value)
        elif (parts := _parts(value)) is not None:
            for item in parts:
                yield from self.of(item, below)
        else:
            yield str(value)


def _parts(value: Any) -> Iterable[Any] | None:
    """The values of a record, an object with fields or a list; None if it is none of them."""
    if isinstance(value, Record):
        return value.values()
    if isinstance(value, pydantic.BaseModel):
        return fields_of_model(value).values()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [getattr(value, field.name) for field in dataclasses.fields(value)]
    return value if isinstance(value, (list, tuple)) else None


def tokens(text: str) -> list[str]:
    """The words of a text in small letters, and its numbers and signs; no punctuation, unless there is nothing else.

    In scripts without spaces each character is a token. Of a text of more than 100,000 characters only so many count.

    Args:
        text: The text.

    Example:
        >>> tokens("The answer is: **-3.5%**!"), tokens("東京です。"), tokens("?!")
        (['the', 'answer', 'is', '-3.5', '%'], ['東', '京', 'で', 'す'], ['?', '!'])
    """
    text = text[:LONGEST_OF_WORDS]
    if text.isascii():
        text = text.lower()
        found = _ASCII_TOKEN.findall(text)
    else:
        text = unicodedata.normalize("NFKC", text).casefold()
        found = _TOKEN.findall(text)
    return found or [character for character in text if not character.isspace()]


def bag(items: list[str]) -> frozenset[Hashable]:
    """A list as a set in which what comes again is another element, so that common elements are those of multisets.

    Example:
        >>> len(bag(["a", "b", "a"]) & bag(["a", "a", "a"]))
        2
    """
    found = set(items)
    if len(found) == len(items):
        return frozenset(found)
    again = ((item, time) for item, times in Counter(items).items() if times > 1 for time in range(1, times))
    return frozenset([*found, *again])


def runs(text: str, order: int) -> tuple[np.ndarray, tuple[int, ...]]:
    """The runs of 1 to ``order`` characters of a text, without its white space.

    Args:
        text: The text.
        order: The longest run, in characters; at most 7.

    Returns:
        A sorted array of one number a run, in which a run that comes again has another number; and how many runs of
        each length there are. Numbers of different runs are equal once in :math:`10^{14}` pairs.
    """
    characters = np.frombuffer("".join(text.split())[:LONGEST].encode("utf-32-le", "surrogatepass"), np.uint32)
    letters = characters.astype(np.uint64)
    rolled = np.zeros(len(letters), np.uint64)
    found: list[np.ndarray] = []
    for length in range(1, order + 1):
        if len(letters) < length:
            break
        rolled = rolled[: len(letters) - length + 1] * _PRIME + letters[length - 1 :] + _MIX
        mixed = (rolled ^ (rolled >> _SHIFT)) * _MIX
        mixed = ((mixed ^ (mixed >> _SHIFT)) & _KEPT) | (np.uint64(length) << _PLACE)
        mixed.sort()
        found.append(mixed)
    if not found:
        return np.zeros(0, np.uint64), ()
    merged = np.concatenate(found)
    return merged + _times(merged), tuple(map(len, found))


def _times(ordered: np.ndarray) -> np.ndarray:
    """How often each element of a sorted array came before."""
    places = np.arange(len(ordered), dtype=np.uint64)
    begins = np.ones(len(ordered), bool)
    begins[1:] = ordered[1:] != ordered[:-1]
    return places - np.maximum.accumulate(np.where(begins, places, np.uint64(0)))


def common_runs(one: np.ndarray, other: np.ndarray, order: int) -> list[int]:
    """How many runs of each length two texts have in common, from arrays that :func:`runs` made.

    Example:
        >>> common_runs(runs("abc", 3)[0], runs("bcd", 3)[0], 3)
        [2, 1, 0]
    """
    merged = np.concatenate((one, other))
    merged.sort(kind="stable")  # of two runs that are sorted it is a merge
    twice = merged[1:][merged[1:] == merged[:-1]]
    return np.bincount((twice >> _PLACE).astype(np.intp), minlength=order + 1)[1:].tolist()
