"""Where the budget of a pool comes from, if not from caps of its own."""

from __future__ import annotations

from typing import Protocol

from dynscale_dspy.allocation.pricing import ShadowPrice


class Supply(Protocol):
    """Feeds a pool whose caps grow while it runs, such as a lease of a budget that many processes share.

    A pool asks it inside its lock, so nothing here waits.
    """

    @property
    def grows(self) -> bool:
        """Whether the pool's caps are what has come so far, and no caps of a user's."""
        ...

    def is_short(self, *, first: bool = False) -> bool:
        """Whether a sample does not fit now for which budget is on its way. A first sample is worth a longer wait."""
        ...

    def tend(self) -> None:
        """Called at the end of each step: look whether more has to be fetched."""
        ...

    def ended(self) -> str:
        """Why nothing more can be spent; empty while that is not so."""
        ...

    def silence(self) -> str:
        """Why nothing more comes for now, though more may be there; empty while that is not so."""
        ...

    def spare(self) -> float:
        """Samples that calls under way may take, beside those kept for calls that wait for their first."""
        ...

    def priced(self, price: ShadowPrice) -> None:
        """The pool has its first price: it goes where that of all who share the budget is."""
        ...

    def prepare(self, calls: int, requests: int) -> None:
        """A known set of calls is about to be opened, a guess of requests a sample: fetch what it takes. May wait."""
        ...


class OwnCaps:
    """The supply of a pool that has nothing but its own caps."""

    grows = False

    def is_short(self, *, first: bool = False) -> bool:
        """Never: what is not there does not come."""
        return False

    def tend(self) -> None:
        """Do nothing."""

    def ended(self) -> str:
        """Never."""
        return ""

    def silence(self) -> str:
        """Never."""
        return ""

    def spare(self) -> float:
        """Everything."""
        return float("inf")

    def priced(self, price: ShadowPrice) -> None:
        """Leave the price where it is."""

    def prepare(self, calls: int, requests: int) -> None:
        """Do nothing."""
