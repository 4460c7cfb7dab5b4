"""Scaling settings as JSON, stored beside a program's state."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from typing import Any

from dynscale_dspy.allocation.policies import Policy
from dynscale_dspy.allocation.policies.registry import POLICIES
from dynscale_dspy.sampling.strategies import Integrated, Parallel, Sequential, Strategy

logger = logging.getLogger(__name__)

KEY = "dynscale"
"""Where the settings stand in a saved state, beside the parameters. Loading without the wrapper passes over it."""

_PLAIN = (
    "temperature",
    "max_samples",
    "max_choices",
    "stop_when_decided",
    "leader",
    "min_confidence",
    "on_low",
    "answer",
)
_STRATEGIES = {strategy.__name__: strategy for strategy in (Parallel, Sequential, Integrated)}
_POLICIES = {policy.__name__: policy for policy in POLICIES.values()}


def dump_settings(
    *,
    sampling: Strategy,
    temperature: float | None,
    max_samples: int,
    max_choices: int,
    stop_when_decided: bool,
    leader: bool,
    min_confidence: float | None,
    on_low: Any,
    answer: Any,
    budget: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """The settings as JSON values. What JSON cannot hold, a function or a class of the user's, is left out.

    Args:
        sampling: How samples are drawn.
        temperature: Overrides the language model's, or None.
        max_samples: Most samples a call may take.
        max_choices: Most samples that may share a request.
        stop_when_decided: Whether samples in flight are called off once they cannot change the winner.
        leader: Whether the first sample of a call with long inputs is asked for alone.
        min_confidence: Confidence below which ``on_low`` decides, or None.
        on_low: A word, or a function.
        answer: Names of the answer's fields, None, or a function.
        budget: Settings of a private pool (``per_call``, ``policy``, ``seed``), None for a shared one.
    """
    state: dict[str, Any] = {
        "temperature": temperature,
        "max_samples": max_samples,
        "max_choices": max_choices,
        "stop_when_decided": stop_when_decided,
        "leader": leader,
    }
    if min_confidence is not None and isinstance(on_low, str):
        state |= {"min_confidence": min_confidence, "on_low": on_low}
    if type(sampling) in _STRATEGIES.values():
        state["sampling"] = _dump(sampling)
    if answer is None or not callable(answer):
        state["answer"] = None if answer is None else list(answer)
    if budget is not None and type(budget["policy"]) in _POLICIES.values():
        state["budget"] = {**budget, "policy": _dump(budget["policy"])}
    return state


def load_settings(state: Mapping[str, Any]) -> dict[str, Any]:
    """The settings back as objects; only those that the state names.

    A strategy, policy or option that this version does not know is logged and left out: a file from elsewhere must
    never keep a program from loading.
    """
    settings = {name: state[name] for name in _PLAIN if name in state}
    if "sampling" in state:
        settings["sampling"] = _load(state["sampling"], _STRATEGIES)
    if "budget" in state:
        policy = _load(state["budget"].get("policy"), _POLICIES)
        settings["budget"] = policy and {**state["budget"], "policy": policy}
    return {name: value for name, value in settings.items() if value is not None or name in ("temperature", "answer")}


def _dump(value: Strategy | Policy) -> dict[str, Any]:
    return {"name": type(value).__name__, **dataclasses.asdict(value)}  # type: ignore[call-overload]  # all are dataclasses


def _load(state: Any, known: Mapping[str, type]) -> Any:
    try:
        options = dict(state)
        return known[options.pop("name")](**options)
    except (KeyError, TypeError, ValueError) as error:
        logger.warning("saved scaling settings %r are unknown to this version and left as they are: %r", state, error)
        return None
