"""What a user is told that costs votes or time and need not: once each, on the screen."""

from __future__ import annotations

import contextlib
import warnings
import weakref
from collections.abc import Iterable
from typing import Any

from dynscale_dspy.execution.capabilities import Capability, server_of
from dynscale_dspy.execution.choices_route import is_native
from dynscale_dspy.execution.lm_errors import status_of
from dynscale_dspy.sampling.plan import Plan
from dynscale_dspy.sampling.sample import REPEATED

_OWN_REPLIES = Capability()
"""Of a wrapper: its equal requests are each answered anew."""

_AGREEMENT = Capability()
"""Of a wrapper: two samples of its program say the same now and then."""

_CONNECTIONS_DO = Capability()
"""Of a language model: its client has a connection for each of its requests."""

CONNECTIONS = 100
"""Connections that DSPy's native client opens for a language model, unless its engine is told otherwise."""

_TOLD_LOST: weakref.WeakKeyDictionary[Any, set[str]] = weakref.WeakKeyDictionary()
"""By wrapper, the language models of several of which it was told that they fail."""


def hint(owner: Any, name: str, plan: Plan) -> None:
    """Warn of what a call has shown, if its wrapper was not warned of that before.

    Args:
        owner: The wrapper.
        name: Its name in reports.
        plan: The call's plan, whose samples are finished.
    """
    for model, error in plan.failing.items():
        told = _TOLD_LOST.setdefault(owner, set())
        if model not in told and not plan.is_hopeless:
            told.add(model)
            # Neither its message nor its request: they may hold a key.
            status = f" and status {status_of(error)}" if status_of(error) is not None else ""
            _warn(
                f"samples of {name} that ask {model!r} fail with {type(error).__name__}{status}, and others would too: "
                "calls go on with its other language models. It is tried again now and then"
            )
    repeated = sum(sample.problem == REPEATED for sample in plan.samples)
    if repeated and _OWN_REPLIES.found(owner, False):
        _warn(
            f"{repeated} of {len(plan.samples)} samples of a call of {name} are the same reply as another one, with "
            "the same response id, and do not vote: something between here and the language model caches replies. "
            "Turn that off for these requests, or no further sample says anything new"
        )
    if plan.repeats.never and _AGREEMENT.found(owner, False):
        calls, votes = plan.repeats.counts
        _warn(
            f"no two samples of {name} have agreed, in {calls} calls with {votes + calls} votes: a vote cannot choose "
            "between answers that all differ, so that the first sample wins and further ones buy nothing. Pass "
            "answer=, the output field or a function of the prediction that is equal where the answer is the same, "
            "or a selector= that compares answers otherwise"
        )


def hint_of_connections(lm: Any, under_way: Iterable[Any]) -> None:
    """Warn if requests wait for a connection of DSPy's native client, once for a language model.

    Args:
        lm: The language model of a request that begins.
        under_way: Those of all requests under way, this one included.
    """
    if not _CONNECTIONS_DO.is_expected(lm) or not is_native(lm, {}):
        return
    count = sum(server_of(other) == server_of(lm) for other in under_way)
    if count > CONNECTIONS and _CONNECTIONS_DO.found(lm, False):
        _warn(
            f"more than {CONNECTIONS} requests to {lm.model} are under way, and DSPy's native client opens "
            f"{CONNECTIONS} connections: the others wait for one. Samples that share a request need fewer "
            "(max_choices=8, the default, where program and server can); or give dspy.LM an engine with more, "
            "LM15Engine(RouterConfig(max_connections=1000)), as docs/speed.md shows"
        )


def _warn(told: str) -> None:
    with contextlib.suppress(Exception):  # a filter makes it an error: no call that was paid is lost to that
        warnings.warn(told, UserWarning, stacklevel=3)
