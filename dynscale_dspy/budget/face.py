"""What users see alike of a pool and of a client of a published one: settings by name, pictures, copies."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Generic, TypeVar, overload

from dynscale_dspy import _deprecated
from dynscale_dspy._fields import Seconds, check
from dynscale_dspy.allocation.policies import Policy
from dynscale_dspy.budget.prices import Price
from dynscale_dspy.config import PoolSettings
from dynscale_dspy.reporting import html, text
from dynscale_dspy.reporting.live import Watch
from dynscale_dspy.reporting.pool_report import PoolReport
from dynscale_dspy.reporting.statistics import PoolStatistics

T = TypeVar("T")
Self = TypeVar("Self", bound="Face")


class Setting(Generic[T]):
    """Read-only attribute that gives the setting of its own name."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    @overload
    def __get__(self, face: None, owner: type) -> Setting[T]: ...

    @overload
    def __get__(self, face: object, owner: type) -> T: ...

    def __get__(self, face: Any, owner: type) -> Any:
        return self if face is None else getattr(face.settings, self._name)

    def __set__(self, face: Any, value: Any) -> None:
        raise AttributeError(f"{self._name} is said when a pool is made, and cannot be assigned afterwards")


class Face(ABC, _deprecated.OldPoolNames):
    """Base class of :class:`BudgetPool` and of :class:`~dynscale_dspy.distributed.LeasedPool`.

    Attributes:
        settings: All arguments the pool was made with.
    """

    settings: PoolSettings

    policy = Setting[Policy]()
    """Whom to sample next."""
    on_empty = Setting[str]()
    """What a call does that finds not even one sample left."""
    strict = Setting[bool]()
    """Whether requests are refused whose cost has no upper bound."""
    prices = Setting[Mapping[str, Price]]()
    """Dollars per million tokens by model name."""
    seed = Setting[int]()
    """Seeds the order in which attempts are shown."""
    min_per_call = Setting[int]()
    """Samples each call draws whatever the price."""
    max_per_call = Setting[int | None]()
    """Samples no call may draw more of."""

    @abstractmethod
    def statistics(self) -> PoolStatistics:
        """A consistent snapshot."""

    @abstractmethod
    def report(self) -> PoolReport:
        """What text, HTML and the live view show of this pool, as one frozen value."""

    def watch(self, *, interval: float = 0.5) -> Watch:
        """A live view of this pool: redrawn in place in a notebook, a table in a terminal.

        Args:
            interval: Seconds between two looks.

        Returns:
            A view that runs until its ``close()``, or until the end of a ``with`` block.

        Raises:
            ValueError: If ``interval`` is not a positive number.
            ImportError: In a terminal, if rich is not installed.

        Example:
            ```python
            with pool.watch():
                qa.batch(examples)
            ```
        """
        check("interval", interval, Seconds)
        return Watch(self.report, interval=interval)

    def __str__(self) -> str:
        # Before anything has happened there is nothing to add to one line.
        now = self.statistics()
        return text.pool(self.report()) if now.closed_calls or now.open_calls else repr(self)

    def _repr_html_(self) -> str:
        return html.pool(self.report())

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        printer.text(str(self))

    # Optimizers copy programs deep. A budget is a thing in the world: every copy spends from it.
    def __deepcopy__(self: Self, memo: dict[int, Any]) -> Self:
        return self

    def __copy__(self: Self) -> Self:
        return self
