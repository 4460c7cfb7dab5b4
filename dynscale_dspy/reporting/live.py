"""A live view of a pool: its HTML in a notebook, a table in a terminal."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from typing import Any, Protocol

from dynscale_dspy.reporting import html, text
from dynscale_dspy.reporting.pool_report import PoolReport


class _Screen(Protocol):
    def show(self, report: PoolReport) -> None: ...
    def close(self) -> None: ...


class Watch:
    """A live view that redraws itself from its own thread until it is closed; made by :meth:`BudgetPool.watch`.

    Args:
        look: Gives the report to draw.
        interval: Seconds between two looks.
        console: A rich console to draw on; the terminal by default. Not used in a notebook.

    Raises:
        ImportError: In a terminal, if rich is not installed.
    """

    def __init__(self, look: Callable[[], PoolReport], *, interval: float = 0.5, console: Any = None) -> None:
        self._look = look
        self._interval = interval
        self._screen: _Screen = _Notebook() if console is None and in_notebook() else _Terminal(console)
        self._closed = threading.Event()
        self._screen.show(look())
        self._thread = threading.Thread(target=self._follow, daemon=True, name="dynscale-watch")
        self._thread.start()

    def close(self) -> None:
        """Draw the last state, and stop. Closing twice does nothing."""
        if self._closed.is_set():
            return
        self._closed.set()
        self._thread.join()
        self._screen.show(self._look())
        self._screen.close()

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _follow(self) -> None:
        while not self._closed.wait(self._interval):
            self._screen.show(self._look())


def in_notebook() -> bool:
    """Whether this process is a Jupyter kernel."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return getattr(shell, "kernel", None) is not None


class _Notebook:
    def __init__(self) -> None:
        self._handle: Any = None

    def show(self, report: PoolReport) -> None:
        from IPython.display import HTML, display  # type: ignore[import-not-found]

        page = HTML(html.pool(report))
        if self._handle is None:
            self._handle = display(page, display_id=True)
        else:
            self._handle.update(page)

    def close(self) -> None:
        pass


class _Terminal:
    def __init__(self, console: Any) -> None:
        try:
            from rich.live import Live
        except ImportError as error:
            raise ImportError("watching in a terminal needs rich: pip install 'dynscale-dspy[lab]'") from error
        self._live = Live(console=console, auto_refresh=False)
        self._live.start()

    def show(self, report: PoolReport) -> None:
        self._live.update(table(report), refresh=True)

    def close(self) -> None:
        self._live.stop()


def table(report: PoolReport) -> Any:
    """A pool as a rich table, one row per unit."""
    from rich.table import Table

    now = report.statistics
    title = text.harmless(report.title + ("" if now.state == "open" else f" ({now.state})"))
    out = Table(title=title, title_justify="left")
    for name in ("", "spent", "in flight", "left"):
        out.add_column(name, justify="right" if name else "left")
    for use in text.uses(now.spent, now.reserved, now.limits):
        left = "no cap" if use.left is None else text.amount(use.left, use.unit)
        out.add_row(use.unit, text.amount(use.spent, use.unit), text.amount(use.held, use.unit), left)
    out.caption = ", ".join(text.facts(now, report.history))
    return out
