"""The meter of a sample: every request it makes is charged before it goes out, and settled when it is over."""

from __future__ import annotations

import asyncio
import math
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any, NamedTuple

import dspy
from dspy.utils.callback import ACTIVE_CALL_ID
from dspy.utils.usage_tracker import UsageTracker

from dynscale_dspy.allocation.costs import Cost
from dynscale_dspy.budget.admission import Admission
from dynscale_dspy.budget.leases import Charge, Lease
from dynscale_dspy.errors import BudgetExhausted
from dynscale_dspy.execution.request_costs import (
    MISCOUNTED,
    Bound,
    answered_by_cache,
    choice_bound,
    price_of,
    request_bound,
    request_cost,
    split,
    unseen_routes,
    usage_in_cache,
)
from dynscale_dspy.execution.sending import had_left

SETTING = "dynscale_meter"
"""Where DSPy's settings hold the meter of a sample: its program may set whatever it likes beside it."""
LATEST = 256
"""Entries of a history among which a request's own is looked for; so many requests can end at once."""

_under_way: dict[Meter, None] = {}


class CallRefused(BaseException):
    """Cuts a sample off at a request that the pool cannot pay.

    Not an ``Exception``: it must pass through the program's own error handling, as cancellation does, or a retry or a
    fallback inside would simply ask again, and DSPy would go on to make the request.

    Args:
        error: What the sample fails with.
        in_vain: Whether it is not that the request could not be paid, but that it could not succeed.
    """

    def __init__(self, error: Exception, *, in_vain: bool = False) -> None:
        super().__init__(str(error))
        self.error = error
        self.in_vain = in_vain


class Meter:
    """Charges every request of one sample just before it is made, and settles it when it is over.

    ``listener.py`` tells it of each request whatever made it: a predictor, an adapter's fallback, a tool loop, a thread
    of the program's own, or the program itself. The meters of enclosing samples are told too, and each pool is charged
    once, by the innermost sample on it.

    Args:
        lease: What pays for the sample; None for a run outside the budget.
        payer: The pool it is of.
        outer: The meter of the enclosing sample, if there is one.
        owner: Whose samples these are.
        asks: What the sample asks in place of the program's own (:func:`~dynscale_dspy.execution.asks.asks_in`); None
            if it asks that.
        lost: The error for which no request of the sample can succeed, as another one of its call has found; None while
            there is none. A sample that has made a request goes on.
    """

    def __init__(
        self,
        lease: Lease | None,
        payer: Admission | None,
        outer: Meter | None,
        owner: object = None,
        asks: Any = None,
        lost: Callable[[], BaseException | None] = lambda: None,
    ) -> None:
        self._lost = lost
        self._has_asked = False
        self.lease = lease
        self.owner = owner
        self.asks = asks
        self.lent = 0
        """Requests it was told of by threads that do not say whose they are."""
        self.payer = payer if lease is not None else None
        self.outer = outer
        self.miscounted = False
        """Whether the provider counted the tokens of one choice for several, where tokens or dollars are capped."""
        self.tracker = _Tracker()
        self.history = _History()
        self._open: dict[str, _OpenRequest] = {}
        self._shares: list[_Share] = []
        self._ended: deque[Callable[[], None]] = deque()
        self._settling = threading.Lock()

    @staticmethod
    def under_way() -> list[Meter]:
        """The meters of all samples that are running, in the order in which they began."""
        return list(_under_way)

    def open(self) -> None:
        """The sample begins."""
        _under_way[self] = None

    def close(self) -> None:
        """It is over."""
        _under_way.pop(self, None)

    @property
    def may_block(self) -> bool:
        """Whether a pool that pays is kept in a file, so that charging a request may take long."""
        return any(meter.payer is not None and meter.payer.is_durable for meter in self._chain())

    def cut_off(self) -> CallRefused:
        """What ends the sample where no time is left for its next request."""
        if self.lease is not None:
            self.lease.cut_off()
        for meter in self._chain():
            if meter.payer is not None and (meter.payer.is_late or meter.payer.is_stopped):
                return CallRefused(meter.payer.cut_off())
        return CallRefused(
            BudgetExhausted("the pool's deadline, or the end of the call, comes before the next request may be made")
        )

    def patience(self) -> float:
        """Seconds for which the sample may wait: none once a call it is part of is over, its pool stopped or late."""
        least = math.inf
        for meter in self._chain():
            if meter.lease is not None and not meter.lease.arm.is_open:
                return 0.0
            if meter.payer is not None:
                least = min(least, meter.payer.patience())
        return least

    @contextmanager
    def shared(self, lm: Any, messages: Any, kwargs: Mapping[str, Any], leases: Sequence[Lease]) -> Iterator[int]:
        """Set aside what other samples of the call need for their choices of the next request.

        The request made inside returns choices for several samples; each lease is charged for its own.

        Args:
            lm: The language model.
            messages: The prompt.
            kwargs: The request's settings.
            leases: The other samples' leases, in the order of their choices.

        Yields:
            How many samples can be paid, this one included.
        """
        shares = self._shares = []
        payer, bound = self.payer, Cost()
        if payer is not None and payer.is_metered:
            inputs = {"messages": messages, "kwargs": kwargs}
            bound = choice_bound(lm, inputs, dollars=payer.caps("nanodollars"), prices=payer.prices)
        for lease in leases:
            charge = lease.charge(bound)
            if charge is None:
                break
            shares.append(_Share(lease, charge, bound))
        try:
            yield 1 + len(shares)
        finally:
            for share in self._shares:  # the request was not made
                share.lease.answered(share.charge, Cost())
            self._shares = []

    def finish_reasons(self) -> list[str | None]:
        """Why each choice of the latest request ended."""
        return finish_reasons(self.history[-1]) if self.history else []

    def pay(self, lm: Any, inputs: dict[str, Any], *, in_task: bool = False) -> PaidRequest:
        """Charge a request to the innermost sample of every pool around.

        Args:
            lm: The language model.
            inputs: What it is to be called with.
            in_task: Whether a task makes the request, whatever thread this is.

        Raises:
            CallRefused: If it cannot be paid, or cannot succeed; nothing is charged then.
        """
        lost = None if self._has_asked else self._lost()
        if isinstance(lost, Exception):
            raise CallRefused(lost, in_vain=True)
        self._has_asked = True
        charged: dict[int, _Charged] = {}
        shares: list[_Share] = []
        if self._shares and (inputs.get("kwargs") or {}).get("n") == 1 + len(self._shares):
            shares, self._shares = self._shares, []
        for meter in self._chain():
            lease, payer = meter.lease, meter.payer
            if lease is not None and payer is not None and id(payer.root) not in charged:
                try:
                    part = _charge(lease, payer, lm, inputs, shared=bool(shares) and meter is self, in_task=in_task)
                except Exception as error:
                    PaidRequest(lm, list(charged.values()), shares).give_back()
                    raise CallRefused(error) from None
                charged[id(payer.root)] = part
        return PaidRequest(lm, list(charged.values()), shares)

    @contextmanager
    def offering(self, paid: PaidRequest) -> Iterator[None]:
        """In the block, a request to the language model that was paid for is not charged again."""
        token = _paid_ahead.set(paid)
        try:
            yield
        finally:
            _paid_ahead.reset(token)

    def pay_beside(self, payer: Admission) -> bool:
        """Charge a request that no language model is asked to the samples around that other pools pay.

        Args:
            payer: The pool that has paid for it.

        Returns:
            Whether it could be; nothing is charged otherwise.
        """
        charges: dict[int, tuple[Lease, Charge]] = {}
        for meter in self._chain():
            lease, around = meter.lease, meter.payer
            if lease is None or around is None or around.root is payer.root or id(around.root) in charges:
                continue
            charge = lease.charge()
            if charge is None:
                for other, made in charges.values():
                    other.answered(made, Cost())
                return False
            charges[id(around.root)] = lease, charge
        for lease, charge in charges.values():
            lease.answered(charge, charge.bound)
        return True

    def finish(self, paid: PaidRequest) -> None:
        """A request that was paid ahead is over: settle it, or give back what was paid if it was never made."""
        if paid.take():
            paid.give_back()
        self.settle_ended()

    def settle_ended(self) -> None:
        """Settle what was paid ahead and has ended."""
        with self._settling:  # who comes second must not go on before the first has settled everything
            while self._ended:
                self._ended.popleft()()

    def on_lm_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        """Charge the request, unless it is paid."""
        paid = _paid_ahead.get()
        ahead = paid is not None and paid.lm is instance and paid.take()
        if paid is None or not ahead:
            paid = self.pay(instance, inputs)
        tracked = dspy.settings.usage_tracker is self.tracker
        self._open[call_id] = _OpenRequest(inputs, paid, tracked, ahead)

    def on_lm_end(self, call_id: str, outputs: Any, exception: BaseException | None = None) -> None:
        """Settle the request at what was reported, or at its bound if that is missing or cannot be."""
        request = self._open.pop(call_id, None)
        reports, entry = self.tracker.requests.pop(call_id, None), self.history.requests.pop(call_id, None)
        if request is None:
            return
        if exception is None and outputs is None:
            # Before DSPy 3.3 callbacks are not told of an interruption.
            exception = sys.exc_info()[1] or asyncio.CancelledError()
        if not request.tracked:  # another tracker was around the request, or none, as in threads without a context
            entry = entry or _entry_of(request.paid.lm, outputs)
            usage = entry.get("usage") if entry is not None else None
            reports = [usage] if usage else ([{}] if entry is None and exception is None else None)
        kept: Mapping[str, Any] = {}
        if exception is None and reports is None:
            # Language models are chosen by price, and requests sized by it: as they are without a cache.
            kept = usage_in_cache(request.paid.lm, request.inputs)
        settle = partial(self._settle, request, reports, kept, entry, outputs, exception)
        if exception is not None and not reports and request.never_left(exception):
            settle = request.paid.give_back
        if request.ahead:
            self._ended.append(settle)  # in the thread that calls finish()
        else:
            settle()

    def _settle(
        self,
        request: _OpenRequest,
        reports: Sequence[Mapping[str, Any]] | None,
        kept: Mapping[str, Any],
        entry: Mapping[str, Any] | None,
        outputs: Any,
        exception: BaseException | None,
    ) -> None:
        for part in request.paid.charged:
            payer, bound = part.payer, part.bound
            shares = request.paid.shares if part.lease is self.lease else []
            lm, inputs = request.paid.lm, request.inputs
            came_to = partial(
                request_cost,
                lm,
                inputs,
                bound=sum((share.bound for share in shares), bound.cost) if shares else bound.cost,
                lacking=bound.lacking,
                metered=payer.is_metered,
                entry=entry,
                outputs=outputs,
                error=exception,
                prices=payer.prices,
            )
            used, distrust = came_to(reports=reports)
            price = price_of(lm, inputs, payer.prices) if shares else None
            bounds = [bound.cost, *(share.bound for share in shares)]
            saved = split(came_to(reports=[kept])[0], bounds, price) if kept else [None] * len(bounds)
            for each, own, own_saved in zip([part, *shares], split(used, bounds, price), saved, strict=True):
                each.lease.answered(each.charge, own, own_saved)
            if distrust:
                payer.distrust(distrust)
            if distrust == MISCOUNTED and payer.is_metered:
                self.miscounted = True

    def _chain(self) -> Iterator[Meter]:
        """This meter and those of the enclosing samples."""
        meter: Meter | None = self
        while meter is not None:
            yield meter
            meter = meter.outer

    # A deep copy of a callback list must keep charging the same sample.
    def __deepcopy__(self, memo: dict) -> Meter:
        return self


def current_meter() -> Meter | None:
    """The meter of the sample this code runs in, if any."""
    return dspy.settings.get(SETTING)


def is_alone(*, in_task: bool) -> bool:
    """Whether no sample runs in this process but those around this code.

    Args:
        in_task: Whether nothing else could run on the event loop either.
    """
    meter, around = current_meter(), set()
    while meter is not None:
        around.add(meter)
        meter = meter.outer
    if not around.issuperset(Meter.under_way()):
        return False
    return not in_task or len(asyncio.all_tasks()) <= 1


def _entry_of(lm: Any, outputs: Any) -> Mapping[str, Any] | None:
    """The entry that a request left in its language model's own history, among the latest."""
    history = getattr(lm, "history", None) if outputs is not None else None
    latest = list(history[-LATEST:]) if isinstance(history, list) else []
    return next((entry for entry in reversed(latest) if entry.get("outputs") is outputs), None)


CUT_OFF = ("length", "content_filter")
"""Why a reply ended that has not come to its end. What is there of an answer may be half of it."""


def finish_reasons(entry: Mapping[str, Any]) -> list[str | None]:
    """Why each choice of a request ended.

    Args:
        entry: DSPy's history entry of the request.
    """
    response = entry.get("response")
    choices = getattr(response, "choices", None)  # LiteLLM's shape; the native engine has the reason at the top
    if getattr(getattr(response, "incomplete_details", None), "reason", None) == "max_output_tokens":
        return ["length"]  # OpenAI's Responses API, through LiteLLM
    return [getattr(choice, "finish_reason", None) for choice in choices or [response]]


class PaidRequest:
    """A request that is paid for, by each pool around.

    Args:
        lm: The language model.
        charged: Each pool's part.
        shares: What other samples of the call pay for their choices.
    """

    def __init__(self, lm: Any, charged: list[_Charged], shares: list[_Share]) -> None:
        self.lm = lm
        self.charged = charged
        self.shares = shares
        self._taken = False

    def take(self) -> bool:
        """Whether nobody has taken it before: it pays for one request."""
        taken, self._taken = self._taken, True
        return not taken

    def give_back(self) -> None:
        """The request was not made."""
        for part in (*self.charged, *self.shares):
            part.lease.answered(part.charge, Cost())


_paid_ahead: ContextVar[PaidRequest | None] = ContextVar("dynscale_paid_ahead", default=None)


class _OpenRequest(NamedTuple):
    """A request under way: who pays for it, whether the sample's own usage tracker hears of it, whether paid ahead."""

    inputs: dict[str, Any]
    paid: PaidRequest
    tracked: bool
    ahead: bool

    def never_left(self, error: BaseException) -> bool:
        """Whether it was cut off before it was sent, and nothing was sent for it before."""
        lm = self.paid.lm
        return not isinstance(error, Exception) and not unseen_routes(lm, self.inputs) and not had_left(error)


class _Charged(NamedTuple):
    """One pool's part in a request: what was charged to which lease, and the most it can come to."""

    lease: Lease
    payer: Admission
    charge: Charge
    bound: Bound


def _charge(
    lease: Lease, payer: Admission, lm: Any, inputs: dict[str, Any], *, shared: bool, in_task: bool
) -> _Charged:
    """Charge a request that is about to be made.

    Raises:
        BudgetExhausted: If it cannot be paid.
    """
    model, routes = str(getattr(lm, "model", "")), unseen_routes(lm, inputs)
    if shared:  # those who share the request pay for their own choices
        inputs = {**inputs, "kwargs": {**(inputs.get("kwargs") or {}), "n": 1}}
    bound = request_bound(
        lm,
        inputs,
        tokens=payer.caps("tokens"),
        dollars=payer.caps("nanodollars"),
        prices=payer.prices,
        retries=getattr(lm, "num_retries", 0) if payer.strict else 0,
    )
    if bound.lacking:
        payer.unbounded(model, bound.lacking, bound.overshoot)
    if routes and any(payer.caps(unit) for unit in ("requests", "tokens", "nanodollars")):
        payer.unbounded(model, routes, "what those cost for each request in flight")
    charge = lease.charge(bound.cost, cached=lambda: not in_task and answered_by_cache(lm, inputs))
    if charge is None:
        raise payer.cut_off(lease)
    return _Charged(lease, payer, charge, bound)


class _Share(NamedTuple):
    """Another sample's part in a request."""

    lease: Lease
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
