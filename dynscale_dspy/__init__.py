"""Better answers from any DSPy program for a given budget, with no verifier."""

from __future__ import annotations

import importlib
import logging
from importlib.metadata import version as _version_of
from typing import TYPE_CHECKING, Any

from dynscale_dspy import _moved

if TYPE_CHECKING:
    from dynscale_dspy._ambient import unscaled
    from dynscale_dspy.allocation.costs import Cost
    from dynscale_dspy.allocation.policies import UCB, KnowledgeGradient, Policy, Uniform
    from dynscale_dspy.budget.pool import BudgetPool, BudgetWarning
    from dynscale_dspy.budget.prices import Price
    from dynscale_dspy.errors import BudgetExhausted, LowConfidence, StorageError, UnboundedCost
    from dynscale_dspy.module import DynScaling
    from dynscale_dspy.reporting.explanation import explain
    from dynscale_dspy.reporting.streaming import SamplingStatus
    from dynscale_dspy.sampling.best_of import BestOf
    from dynscale_dspy.sampling.by_price import ByPrice
    from dynscale_dspy.sampling.escalate import Escalate
    from dynscale_dspy.sampling.strategies import Integrated, Parallel, Sequential, Strategy
    from dynscale_dspy.tuning.calibrate import Calibrate
    from dynscale_dspy.wrapping import unwrap, wrap

_moved.install()
# Quiet unless the user's own logging says otherwise.
logging.getLogger(__name__).addHandler(logging.NullHandler())

__version__ = "0.3.0"

__all__ = [
    "UCB",
    "BestOf",
    "BudgetExhausted",
    "BudgetPool",
    "BudgetWarning",
    "ByPrice",
    "Calibrate",
    "Cost",
    "DynScaling",
    "Escalate",
    "Integrated",
    "KnowledgeGradient",
    "LowConfidence",
    "Parallel",
    "Policy",
    "Price",
    "SamplingStatus",
    "Sequential",
    "StorageError",
    "Strategy",
    "UnboundedCost",
    "Uniform",
    "explain",
    "unscaled",
    "unwrap",
    "wrap",
]

if _version_of("dspy").startswith(("3.1.", "3.2.", "3.3.")):
    # They leave a stand-in for NumPy, which is only complete once it is asked for something, before any part of it is.
    from numpy import ndarray as _whole_numpy  # noqa: F401

_HOMES = {
    "_ambient": ("unscaled",),
    "allocation.costs": ("Cost",),
    "allocation.policies": ("UCB", "KnowledgeGradient", "Policy", "Uniform"),
    "budget.pool": ("BudgetPool", "BudgetWarning"),
    "budget.prices": ("Price",),
    "errors": ("BudgetExhausted", "LowConfidence", "StorageError", "UnboundedCost"),
    "module": ("DynScaling",),
    "reporting.explanation": ("explain",),
    "reporting.streaming": ("SamplingStatus",),
    "sampling.best_of": ("BestOf",),
    "sampling.by_price": ("ByPrice",),
    "sampling.escalate": ("Escalate",),
    "sampling.strategies": ("Integrated", "Parallel", "Sequential", "Strategy"),
    "tuning.calibrate": ("Calibrate",),
    "wrapping": ("unwrap", "wrap"),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    # Names are loaded when they are first asked for, as DSPy does it: a program that imports this library and does not
    # use it yet does not wait for NumPy.
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
