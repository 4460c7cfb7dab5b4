"""Words that go with numbers."""

from __future__ import annotations


def counted(number: int, unit: str) -> str:
    """A number of things, in words.

    Example:
        >>> counted(1, "sample"), counted(1200, "sample"), counted(0, "query")
        ('1 sample', '1,200 samples', '0 queries')
    """
    if number != 1:
        unit = f"{unit[:-1]}ies" if unit.endswith("y") else f"{unit}s"
    return f"{number:,} {unit}"
