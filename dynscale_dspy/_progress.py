"""How far something is, told while it runs: a bar where somebody looks on, else a line now and then, on stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Protocol, TextIO

from tqdm import tqdm as plain_bar
from tqdm.auto import tqdm

from dynscale_dspy._words import counted

FIRST = 2.0
"""Seconds before the first line: what is over sooner needs none."""
EVERY = 10.0
"""Seconds between two lines."""

_label: ContextVar[str] = ContextVar("dynscale_progress_label", default="")


class Bar(Protocol):
    """What can be told how far something is."""

    def update(self, n: int = 1) -> Any:
        """So many more are done."""

    def set_postfix_str(self, s: str, refresh: bool = True) -> Any:
        """Say more beside the numbers."""

    def close(self) -> Any:
        """It is over."""


class Lines:
    """A line now and then, for logs and pipes; none for what is over at once.

    Args:
        total: How many there are to do; None if that is not known.
        unit: What is counted, in the singular.
        label: What it is that runs.
        file: Where to write; stderr by default.
        clock: Seconds, from any start.

    Example:
        >>> times = iter([0.0, 1.0, 4.0, 5.0, 8.0])
        >>> lines = Lines(4, "sample", "plain", sys.stdout, lambda: next(times))
        >>> for _ in range(3):
        ...     lines.update()
        plain: 2 of 4 samples, 4 s gone, about 4 s to go
        >>> lines.close()
        plain: 3 of 4 samples, 8 s gone
    """

    def __init__(
        self,
        total: int | None,
        unit: str,
        label: str = "",
        file: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._total = total
        self._unit = unit
        self._label = label
        self._file = file
        self._clock = clock
        self._began = clock()
        self._next = self._began + FIRST
        self._more = ""
        self._done = 0
        self._told: int | None = None

    def update(self, n: int = 1) -> None:
        """So many more are done."""
        self._done += n
        now = self._clock()
        if now >= self._next:
            self._next = now + EVERY
            self._tell(now, going=True)

    def set_postfix_str(self, s: str, refresh: bool = True) -> None:
        """Say more beside the numbers."""
        self._more = s

    def close(self) -> None:
        """Say how it ended, if anything was said before and there is more to say; closing twice does nothing."""
        if self._told not in (None, self._done):
            self._tell(self._clock(), going=False)

    def _tell(self, now: float, *, going: bool) -> None:
        self._told = self._done
        gone = now - self._began
        parts = [counted(self._done if self._total is None else self._total, self._unit)]
        if self._total is not None:
            parts[0] = f"{self._done:,} of {parts[0]}"
        parts += [self._more] if self._more else []
        parts.append(f"{gone:.0f} s gone")
        if going and self._total is not None and 0 < self._done < self._total:
            parts.append(f"about {gone * (self._total - self._done) / self._done:.0f} s to go")
        file = self._file or sys.stderr
        file.write((f"{self._label}: " if self._label else "") + ", ".join(parts) + "\n")
        file.flush()


def bar(total: int | None, unit: str, *, hidden: bool = False, leave: bool = True, label: str = "") -> Bar:
    """Show how far something is.

    Args:
        total: How many there are to do; None if that is not known.
        unit: What is counted, in the singular.
        hidden: Show nothing.
        leave: Whether a bar stays when it is over.
        label: What it is that runs; by default what :func:`named` says.
    """
    name = label or _label.get()
    if hidden:
        return plain_bar(total=total, disable=True)
    if sys.stderr.isatty() or "ipykernel" in sys.modules:
        return tqdm(total=total, unit=unit, desc=name or None, leave=leave)
    return Lines(total, unit, name)


@contextmanager
def named(label: str) -> Iterator[None]:
    """Say in the block what it is that runs."""
    token = _label.set(label)
    try:
        yield
    finally:
        _label.reset(token)
