"""Which numbers are the same, as values and as text."""

from __future__ import annotations

import math
import re
from collections.abc import Hashable
from decimal import Context, Decimal
from fractions import Fraction
from numbers import Rational, Real
from typing import Any

_GROUPED = r"[1-9]\d{0,2}(?:(?:,\d{3})+|(?:'\d{3})+|(?:_\d{3})+|,(?:\d\d,)+\d{3})"
# Spaces part the digits of one number only if a group begins with 0; "12 345" may be two.
_SPACED = r"[1-9]\d{0,2}(?= (?:\d{3} )*0)(?: \d{3})+"
NUMERAL = rf"(?:(?:{_GROUPED}|{_SPACED}|[1-9]\d*|0)(?:\.\d*)?|\.\d+)"
"""How a number without a sign is written, as a regular expression without groups."""

_NUMBER = re.compile(rf"(-?)({NUMERAL})(?:[eE]([+-]?\d{{1,3}}))?")
_FRACTION = re.compile(r"(-?)([1-9]\d{0,29}) ?/ ?([1-9]\d{0,29})")
_THOUSANDS = re.compile(r"-?[1-9]\d{0,2}\.\d{3}")
_SEPARATORS = re.compile(r"[,'_ ]")
_LONGEST = 60
_MOST_DIGITS = 400

_OF_FLOATS = Context(prec=13)
"""Significant digits by which floats are compared: enough for cents of billions, too few for the noise of reckoning."""
_EXACT_FLOATS = 2.0**53
"""Up to here a float holds every integer."""
_OF_TEXT = Context(prec=15)
"""Significant digits that a float keeps of a text; digits after them are noise if they follow a row of 0 or 9."""
_WITHOUT_NOISE = 12


def key_of_value(number: Any) -> Hashable:
    """The key of a number of any type. Equal numbers have equal keys, whatever their types.

    A float is compared by its first 13 digits, so that ``0.1 + 0.2`` is ``0.3``; if it is an integer, by all of them.
    Every other number is compared exactly, and NaN is NaN.

    Args:
        number: An int, float, complex, ``Decimal``, ``Fraction``, or a scalar of NumPy; no bool.
    """
    if isinstance(number, Rational):
        return ("number", _plain(Fraction(int(number.numerator), int(number.denominator))))
    if isinstance(number, complex):
        return ("complex", key_of_value(number.real), key_of_value(number.imag))
    if isinstance(number, Decimal):
        if not number.is_finite():
            return ("text", "nan" if number.is_nan() else repr(float(number)))
        return _of_decimal(number)
    assert isinstance(number, Real)
    value = float(number)
    if not math.isfinite(value):
        return ("text", repr(value))
    if value.is_integer() and abs(value) <= _EXACT_FLOATS:
        return ("number", int(value))
    # Through the shortest text, so that the float 0.1 is a tenth; a float32 knows its own, which is shorter.
    decimal = Decimal(repr(value) if isinstance(number, float) else str(number))
    has_room = decimal.adjusted() < _OF_FLOATS.prec or abs(value) > _EXACT_FLOATS
    return _of_decimal(_OF_FLOATS.plus(decimal) if has_room else decimal)


def key_of_text(text: str) -> Hashable | None:
    """The key of a number that is written so; None if the text is no number, or reading it as one loses something.

    ``+49``, ``007``, ``3.10``, ``1.000`` and ``2/4`` say more than their value. Decimals of one zero or two do not.

    Args:
        text: One line of text without spaces around it.
    """
    if text.isascii() and text.isdecimal() and text[0] != "0" and len(text) <= _LONGEST:
        return ("number", int(text))
    if len(text) > _LONGEST:
        return None
    if match := _NUMBER.fullmatch(text):
        sign, numeral, exponent = match.groups()
        numeral = _SEPARATORS.sub("", numeral)
        whole, _, decimals = numeral.partition(".")
        if not decimals.strip("0") and not _may_be_thousands(text):
            numeral = whole or "0"
        elif decimals.endswith("0") and exponent is None:
            return None
        decimal = Decimal(f"{sign}{numeral}e{exponent or 0}")
        if exponent is not None and not decimal:
            return None
        return _of_decimal(_without_noise(decimal) if "." in numeral else decimal)
    if match := _FRACTION.fullmatch(text):
        sign, above, below = match[1], int(match[2]), int(match[3])
        if below > 1 and math.gcd(above, below) == 1:
            return ("number", Fraction(-above if sign else above, below))
    return None


def key_of_amount(text: str) -> Hashable | None:
    """The key of a number that is surely one, such as the text of a number's field: ``3.10`` is ``3.1`` here."""
    key = key_of_text(text)
    if key is None and len(text) <= _LONGEST and _NUMBER.fullmatch(text) and not _may_be_thousands(text):
        key = _of_decimal(_without_noise(Decimal(_SEPARATORS.sub("", text))))
    return key


def ungrouped(numeral: str) -> str:
    """A numeral without separators of its digits, and without decimals that are all zeros."""
    numeral = _SEPARATORS.sub("", numeral)
    whole, _, decimals = numeral.partition(".")
    return numeral if decimals.strip("0") or _may_be_thousands(numeral) else whole or "0"


def _may_be_thousands(text: str) -> bool:
    """Whether a numeral such as "1.000" is a thousand to those who put a comma before decimals."""
    return _THOUSANDS.fullmatch(text) is not None


def _without_noise(decimal: Decimal) -> Decimal:
    """The decimal, or the shorter one beside it if its digits look like 0.30000000000000004."""
    _, digits, exponent = decimal.as_tuple()
    # Integers have no noise: each of their digits was meant.
    if isinstance(exponent, int) and exponent < 0 and _OF_TEXT.prec < len(digits) <= _OF_TEXT.prec + 2:
        nearest = _OF_TEXT.plus(decimal).normalize(_OF_TEXT)
        if len(nearest.as_tuple().digits) <= _WITHOUT_NOISE:
            return nearest
    return decimal


def _of_decimal(decimal: Decimal) -> Hashable:
    _, digits, exponent = decimal.as_tuple()
    assert isinstance(exponent, int)
    if len(digits) > _MOST_DIGITS or abs(exponent) > _MOST_DIGITS:
        trimmed = "".join(map(str, digits)).strip("0")  # as an integer it might have a billion digits
        return ("decimal", decimal.is_signed(), trimmed, decimal.adjusted()) if trimmed else ("number", 0)
    return ("number", _plain(Fraction(decimal)))


def _plain(number: Fraction) -> int | Fraction:
    # Votes are looked up by their keys all the time, and an integer is hashed much faster.
    return number.numerator if number.denominator == 1 else number
