"""The policies by name, for command lines and for tests that run over all of them."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from types import MappingProxyType

from dynscale_dspy.allocation.policies.base import Policy
from dynscale_dspy.allocation.policies.ranking import (
    PETS,
    PPR,
    UCB,
    BlendASC,
    KnowledgeGradient,
    LowestConfidence,
    OptimalStopping,
    OptimisticKnowledgeGradient,
    Uniform,
)
from dynscale_dspy.allocation.policies.stopping import SPRT, AdaptiveConsistency, BestOfInfinity, EarlyStopping

POLICIES: Mapping[str, type[Policy]] = MappingProxyType(
    {
        "uniform": Uniform,
        "knowledge_gradient": KnowledgeGradient,
        "optimistic_knowledge_gradient": OptimisticKnowledgeGradient,
        "optimal_stopping": OptimalStopping,
        "ucb": UCB,
        "lowest_confidence": LowestConfidence,
        "ppr": PPR,
        "blend_asc": BlendASC,
        "pets": PETS,
        "adaptive_consistency": AdaptiveConsistency,
        "early_stopping": EarlyStopping,
        "best_of_infinity": BestOfInfinity,
        "sprt": SPRT,
    }
)
"""Every policy of this package by its name."""


def make_policy(spec: str) -> Policy:
    """A policy from its name and settings, as one writes it on a command line.

    Args:
        spec: A name of :data:`POLICIES`, then any settings: ``"ucb:exploration=0.1:uncertainty=entropy"``.

    Raises:
        ValueError: If the name or a setting is unknown, or a value out of range.

    Example:
        >>> make_policy("adaptive_consistency:threshold=0.9")
        AdaptiveConsistency(first=1, threshold=0.9, criterion='beta')
    """
    name, *settings = spec.split(":")
    if name not in POLICIES:
        raise ValueError(f"unknown policy {name!r}: choose from {', '.join(sorted(POLICIES))}")
    options = {}
    for setting in settings:
        key, separator, value = setting.partition("=")
        if not separator:
            raise ValueError(f"policy {spec!r}: write settings as key=value, got {setting!r}")
        try:
            options[key] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            options[key] = value
    try:
        return POLICIES[name](**options)
    except TypeError as error:
        raise ValueError(f"policy {spec!r}: {error}") from None
