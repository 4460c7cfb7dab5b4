"""The meter of a sample: every request it makes is charged before it goes out, and settled when it is over."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import dspy
from dspy.utils.callback import ACTIVE_CALL_ID, BaseCallback
from dspy.utils.usage_tracker import UsageTracker

from dynscale_dspy.allocation.costs import Cost
from dynscale_dspy.budget.pool import Charge, Ticket
from dynscale_dspy.execution.request_costs import (
    MISCOUNTED,
    Bound,
    answered_by_cache,
    choice_bound,
    request_bound,
    request_cost,
    split,
)


class CallRefused(BaseException):
    """Cuts a sample off at a request that the pool cannot pay.

    Not an ``Exception``: it must pass through the program's own error handling, as cancellation does, or a retry or a
    fallback inside would simply ask again, and DSPy would go on to make the request.

    Args:
        error: What the sample fails with.
    """

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


class Meter(BaseCallback):
    """Charges every request of one sample just before it is made, and settles it when it is over.

    A DSPy callback sees each request whatever made it: a predictor, an adapter's fallback, a tool loop, or the program
    itself. The meters of enclosing samples are told too, and each pool is charged once, by the innermost sample on it.

    Args:
        ticket: What pays for the sample; None for a run outside the budget.
        outer: The meter of the enclosing sample, if there is one.
    """

    def __init__(self, ticket: Ticket | None, outer: Meter | None) -> None:
        self.ticket = ticket
        self.outer = outer
        self.miscounted = False
        """Whether the provider counted the tokens of one choice for several, where tokens or dollars are capped."""
        self.tracker = _Tracker()
        self.history = _History()
        self._open: dict[str, _OpenRequest] = {}
        self._shares: list[_Share] = []

    @contextmanager
    def shared(self, lm: Any, messages: Any, kwargs: Mapping[str, Any], tickets: Sequence[Ticket]) -> Iterator[int]:
        """Set aside what other samples of the call need for their choices of the next request.

        The request made inside returns choices for several samples; each ticket is charged for its own.

        Args:
            lm: The language model.
            messages: The prompt.
            kwargs: The request's settings.
            tickets: The other samples' tickets, in the order of their choices.

        Yields:
            How many samples can be paid, this one included.
        """
        shares = self._shares = []
        for ticket in tickets:
            pool = ticket.pool
            bound = Cost()
            if pool.metered:
                inputs = {"messages": messages, "kwargs": kwargs}
                bound = choice_bound(lm, inputs, dollars=pool.caps("nanodollars"), prices=pool.prices)
            charge = ticket.call(bound)
            if charge is None:
                break
            shares.append(_Share(ticket, charge, bound))
        try:
            yield 1 + len(shares)
        finally:
            for share in self._shares:  # the request was not made
                share.ticket.answered(share.charge, Cost())
            self._shares = []

    def finish_reasons(self) -> list[str | None]:
        """Why each choice of the latest request ended."""
        return finish_reasons(self.history[-1]) if self.history else []

    def on_lm_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        """Charge the request to the innermost sample of every pool around."""
        charged: dict[int, tuple[Ticket, Charge, Bound]] = {}
        shares: list[_Share] = []
        if self._shares and (inputs.get("kwargs") or {}).get("n") == 1 + len(self._shares):
            shares, self._shares = self._shares, []
        meter: Meter | None = self
        while meter is not None:
            ticket = meter.ticket
            if ticket is not None and id(ticket.pool.root) not in charged:
                try:
                    paid = self._reserve(ticket, instance, inputs, shared=bool(shares) and meter is self)
                except Exception as error:
                    for other, charge in [*(c[:2] for c in charged.values()), *((s.ticket, s.charge) for s in shares)]:
                        other.answered(charge, Cost())
                    raise CallRefused(error) from None
                charged[id(ticket.pool.root)] = (ticket, *paid)
            meter = meter.outer
        tracked = dspy.settings.usage_tracker is self.tracker
        self._open[call_id] = _OpenRequest(instance, inputs, list(charged.values()), tracked, shares)

    def on_lm_end(self, call_id: str, outputs: Any, exception: BaseException | None = None) -> None:
        """Settle the request at what was reported, or at its bound if that is missing or cannot be."""
        request = self._open.pop(call_id, None)
        reports, entry = self.tracker.requests.pop(call_id, None), self.history.requests.pop(call_id, None)
        if request is None:
            return
        if exception is None and outputs is None:
            exception = asyncio.CancelledError()  # before DSPy 3.3 callbacks are not told of an interruption
        if not request.tracked and entry is not None and entry.get("usage"):
            reports = [entry["usage"]]  # the program has a tracker of its own around the request
        for ticket, charge, bound in request.charged:
            shares = request.shares if ticket is self.ticket else []
            used, distrust = request_cost(
                request.lm,
                request.inputs,
                bound=sum((share.bound for share in shares), bound.cost) if shares else bound.cost,
                lacking=bound.lacking,
                metered=ticket.pool.metered,
                reports=reports,
                entry=entry,
                outputs=outputs,
                error=exception,
                prices=ticket.pool.prices,
            )
            used, *others = split(used, 1 + len(shares))
            ticket.answered(charge, used)
            for share, part in zip(shares, others, strict=True):
                share.ticket.answered(share.charge, part)
            if distrust:
                ticket.pool.distrust(distrust)
            if distrust == MISCOUNTED and ticket.pool.metered:
                self.miscounted = True

    @staticmethod
    def _reserve(ticket: Ticket, lm: Any, inputs: dict[str, Any], *, shared: bool) -> tuple[Charge, Bound]:
        pool = ticket.pool
        if shared:  # those who share the request pay for their own choices
            inputs = {**inputs, "kwargs": {**(inputs.get("kwargs") or {}), "n": 1}}
        bound = request_bound(
            lm,
            inputs,
            tokens=pool.caps("tokens"),
            dollars=pool.caps("nanodollars"),
            prices=pool.prices,
            retries=getattr(lm, "num_retries", 0) if pool.strict else 0,
        )
        if bound.lacking:
            pool.unbounded(str(getattr(lm, "model", "")), bound.lacking, bound.overshoot)
        charge = ticket.call(bound.cost, bounded=not bound.lacking, cached=lambda: answered_by_cache(lm, inputs))
        if charge is None:
            raise pool.refused()
        return charge, bound

    # A deep copy of a callback list must keep charging the same sample.
    def __deepcopy__(self, memo: dict) -> Meter:
        return self


def current_meter() -> Meter | None:
    """The meter of the sample this code runs in, if any."""
    callbacks = dspy.settings.get("callbacks") or []
    return next((callback for callback in reversed(callbacks) if isinstance(callback, Meter)), None)


def finish_reasons(entry: Mapping[str, Any]) -> list[str | None]:
    """Why each choice of a request ended.

    Args:
        entry: DSPy's history entry of the request.
    """
    response = entry.get("response")
    choices = getattr(response, "choices", None)  # LiteLLM's shape; the native engine has the reason at the top
    return [getattr(choice, "finish_reason", None) for choice in choices or [response]]


@dataclass(frozen=True)
class _OpenRequest:
    """A request under way: who pays for it, and whether the sample's own usage tracker hears of it."""

    lm: Any
    inputs: dict[str, Any]
    charged: list[tuple[Ticket, Charge, Bound]]
    tracked: bool
    shares: list[_Share]


@dataclass(frozen=True)
class _Share:
    """Another sample's part in a request."""

    ticket: Ticket
    charge: Charge
    bound: Cost


class _Tracker(UsageTracker):
    """A usage tracker that also keeps reports by request. A request that DSPy's cache answered has none."""

    def __init__(self) -> None:
        super().__init__()
        self.requests: dict[str, list[Mapping[str, Any]]] = {}

    def add_usage(self, lm: str, usage_entry: dict[str, Any]) -> None:
        """Add one report; called inside the request."""
        super().add_usage(lm, usage_entry)
        call_id = ACTIVE_CALL_ID.get()
        if call_id is not None:
            self.requests.setdefault(call_id, []).append(dict(usage_entry))

    # DSPy's executors copy the tracker into each of their threads, and lose what is added there.
    def __deepcopy__(self, memo: dict) -> _Tracker:
        return self


class _History(list):
    """A history that also keeps entries by request."""

    def __init__(self) -> None:
        super().__init__()
        self.requests: dict[str, Mapping[str, Any]] = {}

    def append(self, entry: Any) -> None:
        super().append(entry)
        call_id = ACTIVE_CALL_ID.get()
        if call_id is not None:
            self.requests[call_id] = entry
