"""When two texts are the same answer: layers of dress that come off before votes are compared."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Collection, Hashable, Sequence
from functools import lru_cache
from types import MappingProxyType
from typing import Annotated

from dynscale_dspy._fields import SomeOf
from dynscale_dspy.selection import dress, numerals, words

LAYERS = MappingProxyType(
    {
        "unicode": "fullwidth and invisible characters, typographic dashes, quotes and spaces, raised digits",
        "markup": "bold, italics, code, fences, quotes, a heading's or a bullet's mark",
        "latex": r"dollars, \\boxed, \\text, \\frac, \\pi and the like",
        "opening": "'Answer:', 'The final answer is' and the like before the answer",
        "stop": "a full stop at the end",
        "option": "'(B)', 'B)', '[B]' and 'Option B' for B",
        "number": "separators of thousands, decimals that are zeros, fractions and decimals, the last digits of floats",
        "structure": "spaces and quotes in tuples, lists and JSON, the order of the keys of a dict",
        "spacing": "runs of spaces between words, spaces around operators",
        "case": "capitals of a text all in capitals, and of words in a text that begins with one",
    }
)
"""What comes off a text before it is compared, by name. Each can be left on."""

Layers = Annotated[Sequence[str], SomeOf(tuple(LAYERS))]
"""Names of layers, as a setting."""

LONGEST = 20_000
"""Characters of a text whose dress is taken off. Longer ones are prose or data, and compared as they are."""
_REMEMBERED = 400
"""Characters of texts whose keys are kept for a while: short answers come again and again."""
_MOST_LAYERS = 24
_DEEPEST = 20

_EVERY = frozenset(LAYERS)
_NONE: frozenset[str] = frozenset()


def exact_text(text: str) -> str:
    """The text, but for how its lines end and its letters are composed."""
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    return text if text.isascii() else _composed(text)


def key_of_text(text: str, layers: Collection[str] = _EVERY) -> Hashable | None:
    r"""The key under which a text votes; None if it is blank.

    Dress comes off: ``\boxed{42}``, ``**42**``, ``Answer: 42`` and ``42.0`` are ``42``. What is left is compared as an
    option, a number, a tuple or JSON, or words, whichever it is, and exactly if it is none of them. Several lines are
    compared exactly, but for a fence around them. No character that may have a meaning is taken: ``3.10`` is not
    ``3.1``, nor ``5 mW`` ``5 MW``, nor ``ls -L`` ``ls -l``.

    Args:
        text: The text of an answer.
        layers: Names of those :data:`LAYERS` that come off; all by default.

    Example:
        >>> key_of_text("**Answer:** $\\frac{1}{2}$.") == key_of_text("0.5"), key_of_text("3.10") == key_of_text("3.1")
        (True, False)
        >>> key_of_text("PARIS") == key_of_text("Paris"), key_of_text("PARIS", ()) == key_of_text("Paris", ())
        (True, False)
    """
    layers = frozenset(layers)
    return _remembered(text, layers) if len(text) <= _REMEMBERED else _key(text, layers)


def undressed(text: str, layers: Collection[str] = _EVERY) -> str:
    """The text without its outer layers of dress, as a user may want to read it; its own case and numbers are left.

    Args:
        text: The text of an answer.
        layers: Names of those :data:`LAYERS` that come off; all by default.

    Example:
        >>> undressed("The final answer is: **Paris**.")
        'Paris'
    """
    return _undressed(text, frozenset(layers))[0]


def _key(text: str, layers: frozenset[str]) -> Hashable | None:
    text, left = _undressed(text, layers)
    if not text:
        return None
    return _key_of_line(text, left, 0) if left else ("text", text)


_remembered = lru_cache(maxsize=4096)(_key)


# ---- what is around an answer


def _undressed(text: str, layers: frozenset[str]) -> tuple[str, frozenset[str]]:
    """The text without what is around it, and the layers that may come off what is left; none to compare it exactly."""
    text = exact_text(text)
    lines = text.strip("\n").rstrip()  # the indentation of a first line is kept
    if len(text) > LONGEST:
        return lines, _NONE
    if "latex" in layers:
        lines = dress.repaired(lines)
    if not lines.strip():
        return "", _NONE
    for _ in range(_MOST_LAYERS):
        before = lines
        if "markup" in layers and (block := dress.fenced(lines.strip())):
            lines, names_language = block
            lines = lines.strip("\n").rstrip()
            if names_language:
                return (lines, _NONE) if "\n" in lines else (lines.strip(), layers - {"case"})
        elif "\n" not in lines:
            return _undressed_line(lines.strip(), layers), layers
        elif lines[0] not in " \t":
            if "opening" in layers:
                lines = dress.without_opening(lines)
            if "latex" in layers and "markup" in layers:
                lines = dress.within_lines(lines)
        if lines == before:
            break
    if "\n" not in lines:
        return _undressed_line(lines.strip(), layers), layers
    # JSON in several lines is one value.
    return lines, layers if "structure" in layers and lines[0] in "[{" else _NONE


def _undressed_line(text: str, layers: frozenset[str]) -> str:
    if "unicode" in layers:
        text = dress.plain_characters(text)
    for _ in range(_MOST_LAYERS):
        before = text
        if text and "markup" in layers:
            text = dress.without_markup(text)
        if text and "latex" in layers:
            text = dress.without_latex(dress.without_latex_marks(text))
        if text and "opening" in layers:
            text = dress.without_opening(text)
        if text and "stop" in layers:
            text = dress.without_stop(text)
        if text == before:
            break
    return text


# ---- what an answer is

_OPTION = re.compile(
    r"(?:(?:[Oo]ption|[Cc]hoice|OPTION|CHOICE) +)?"
    r"(?:\(([A-Ja-j])\)|\[([A-Ja-j])\]|([A-Ja-j][).]|[A-J]:(?= ))|([A-Ja-j])(?![^\s]))"
    r"(?: +(\S.*))?"
)
_BOLD_LETTER = re.compile(r"^(\*\*|__)(\([A-Ja-j]\)|[A-J][).:])\1(?= )")
_NAMED_OPTION = re.compile(r"[Oo]ption |[Cc]hoice |OPTION |CHOICE ")
_SIGNS = "$€£¥₹₩₽₺₫₪₴₦₿฿"
_CODES = "USD|EUR|GBP|CHF|JPY|CNY|INR|CAD|AUD"
_AMOUNT = re.compile(
    rf"(-?)(?:\\?((?:[A-Z]{{1,3}})?[{_SIGNS}]|(?:{_CODES})(?= )) ?)?({numerals.NUMERAL})"
    rf"(?: ?(\\?%|‰)| ?\\?([{_SIGNS}])|( ?)(/?[^\W\d_][^\n]*|°[^\n]*))?"
)
_UNIT = re.compile(r"(?:°|[^\W\d_]|Ω|%)(?:[^\W\d_]|[/·*°%]|\^-?\d+)*")


def _key_of_line(text: str, layers: frozenset[str], depth: int) -> Hashable:
    """The key of what is left once the dress is off."""
    if "number" in layers and (number := numerals.key_of_text(text)) is not None:
        return number
    if "option" in layers and (option := _option(text, layers, depth)) is not None:
        return option
    if "number" in layers and (amount := _amount(text, layers)) is not None:
        return amount
    if "structure" in layers and text[0] in "([{" and text[-1] in ")]}":
        try:
            key, end = _value(text, 0, layers, depth)
            if end == len(text):
                return key
        except _NoStructure:
            pass
    if "\n" in text:
        return ("text", text)
    return ("text", words.plain_words(text, layers))


def _option(text: str, layers: frozenset[str], depth: int) -> Hashable | None:
    if "markup" in layers and text[0] in "*_":
        text = _BOLD_LETTER.sub(r"\2", text)
    if text[0] not in "([ABCDEFGHIJabcdefghijOo" or depth > 2:
        return None
    found = _OPTION.fullmatch(text)
    if found is None:
        return None
    letter = found[1] or found[2] or (found[3] or found[4])[0]
    rest = found[5]
    if rest is None:
        return ("text", letter)
    if found[4] is not None and not _NAMED_OPTION.match(text):
        return None  # "A cat"
    rest = _undressed_line(rest, layers)
    return ("option", letter, _key_of_line(rest, layers, depth + 1) if rest else None)


def _amount(text: str, layers: frozenset[str]) -> Hashable | None:
    """The key of a number with a currency, a percent sign or a unit."""
    if not (text[0].isdigit() or text[0].isupper()) and text[0] not in f"-\\.{_SIGNS}":
        return None
    found = _AMOUNT.fullmatch(text)
    if found is None:
        return None
    sign, before, numeral, percent, after, space, rest = found.groups()
    if rest is not None and not _UNIT.fullmatch(rest.removeprefix("/") if before else rest):
        tokens = rest.split()
        if not space or not all(map(words.WORD.fullmatch, tokens)):
            return None
        rest = " ".join(tokens)
    if before or percent or after:
        if before and after:
            return None
        value = numerals.key_of_amount(sign + numeral)
        return ("amount", before or after, percent and percent.lstrip("\\"), value, rest)
    numeral = sign + numerals.ungrouped(numeral)
    # Without a unit, a number that loses something if it is read as one: "3.10"
    return ("text", f"{numeral} {rest}" if rest is not None else numeral)


# ---- tuples, lists and JSON


class _NoStructure(Exception):
    """The text is no tuple, list or JSON."""


_STRING = re.compile(r'"((?:[^"\\\n]|\\.)*)"|\'((?:[^\'\\\n]|\\.)*)\'')
_ATOM = re.compile(r"[^,()\[\]{}\"\n]+")
_ATOM_OF_DICT = re.compile(r"[^,:()\[\]{}\"\n]+")
_CLOSERS = {"(": ")]", "[": ")]", "{": "}"}
_CONSTANTS: dict[str, Hashable] = {
    **dict.fromkeys(("true", "True"), ("bool", True)),
    **dict.fromkeys(("false", "False"), ("bool", False)),
    **dict.fromkeys(("null", "None")),
}


def _value(text: str, at: int, layers: frozenset[str], depth: int) -> tuple[Hashable, int]:
    """The value that begins here, in brackets, and where it ends."""
    if depth > _DEEPEST:
        raise _NoStructure
    opener, at = text[at], at + 1
    items: list[Hashable] = []
    pairs: list[tuple[Hashable, Hashable]] = []
    while True:
        at = _past_blanks(text, at)
        if not items and not pairs and text[at : at + 1] in tuple(_CLOSERS[opener]):
            break
        item, at = _item(text, at, layers, depth, in_dict=opener == "{")
        if opener == "{" and text[at : at + 1] == ":":
            value, at = _item(text, _past_blanks(text, at + 1), layers, depth, in_dict=True)
            pairs.append((item, value))
        else:
            items.append(item)
        if text[at : at + 1] != ",":
            break
        at += 1
    closer = text[at : at + 1]
    if not closer or closer not in _CLOSERS[opener] or (items and pairs):
        raise _NoStructure
    if pairs:
        # A key that comes twice: which of the two holds is the reader's affair.
        distinct = len({key for key, _ in pairs}) == len(pairs)
        return ("written", "{:}", frozenset(pairs) if distinct else tuple(pairs)), at + 1
    if opener == "(" and closer == ")" and len(items) == 1:
        raise _NoStructure  # brackets around a value: "(5)", "(a+b)"
    return ("written", opener + closer, tuple(items)), at + 1


def _item(text: str, at: int, layers: frozenset[str], depth: int, *, in_dict: bool) -> tuple[Hashable, int]:
    first = text[at : at + 1]
    if first in ('"', "'"):
        found = _STRING.match(text, at)
        if found is None:
            raise _NoStructure
        end, key = found.end(), ("text", _unescaped(found))
    elif first and first in "([{":
        key, end = _value(text, at, layers, depth + 1)
    else:
        found = (_ATOM_OF_DICT if in_dict else _ATOM).match(text, at)
        if found is None or not (atom := found[0].strip()):
            raise _NoStructure
        end = found.end()
        key = _CONSTANTS[atom] if atom in _CONSTANTS else _key_of_line(atom, layers, _DEEPEST)
    return key, _past_blanks(text, end)


def _past_blanks(text: str, at: int) -> int:
    while text[at : at + 1].isspace():
        at += 1
    return at


def _unescaped(found: re.Match[str]) -> str:
    if found[1] is None or "\\" not in found[1]:
        return found[1] if found[1] is not None else found[2]
    try:
        return json.loads(found[0])
    except ValueError:
        return found[1]


def _composed(text: str) -> str:
    return unicodedata.normalize("NFC", text)
