"""A live view of a pool: in a notebook its own HTML, in a terminal a table."""

from __future__ import annotations

import sys
import threading
from typing import TYPE_CHECKING, Any, Protocol

from dynscale_dspy.reporting import text

if TYPE_CHECKING:
    from dynscale_dspy.budget.pool import BudgetPool


class _Screen(Protocol):
    def show(self, pool: BudgetPool) -> None: ...
    def close(self) -> None: ...


class Watch:
    """Follows a pool from a thread of its own until it is closed; made by :meth:`BudgetPool.watch`.

    Args:
        pool: Whom to follow.
        interval: Seconds between two looks.
        console: A rich console to draw on; the terminal by default. Not used in a notebook.
    """

    def __init__(self, pool: BudgetPool, *, interval: float = 0.5, console: Any = None) -> None:
        self._pool = pool
        self._interval = interval
        self._screen: _Screen = _Notebook() if console is None and in_notebook() else _Terminal(console)
        self._closed = threading.Event()
        self._screen.show(pool)
        self._thread = threading.Thread(target=self._follow, daemon=True, name="dynscale-watch")
        self._thread.start()

    def close(self) -> None:
        """Draw the last state, and stop. Closing twice does nothing."""
        if self._closed.is_set():
            return
        self._closed.set()
        self._thread.join()
        self._screen.show(self._pool)
        self._screen.close()

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _follow(self) -> None:
        while not self._closed.wait(self._interval):
            self._screen.show(self._pool)


def in_notebook() -> bool:
    """Whether this process is a Jupyter kernel."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return getattr(shell, "kernel", None) is not None


class _Notebook:
    def __init__(self) -> None:
        self._handle: Any = None

    def show(self, pool: BudgetPool) -> None:
        from IPython.display import HTML, display  # type: ignore[import-not-found]

        page = HTML(pool._repr_html_())
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

    def show(self, pool: BudgetPool) -> None:
        self._live.update(table(pool), refresh=True)

    def close(self) -> None:
        self._live.stop()


def table(pool: BudgetPool) -> Any:
    """A pool as a rich table."""
    from rich.table import Table

    now, history = pool.statistics(), pool.history
    out = Table(title="BudgetPool" + ("" if now.state == "open" else f" ({now.state})"), title_justify="left")
    for name in ("", "spent", "in flight", "left"):
        out.add_column(name, justify="right" if name else "left")
    for use in text.uses(now.spent, now.reserved, now.limits):
        left = "no cap" if use.left is None else text.amount(use.left, use.unit)
        out.add_row(use.name, text.amount(use.spent, use.unit), text.amount(use.held, use.unit), left)
    out.caption = ", ".join(text.facts(now, history))
    return out
