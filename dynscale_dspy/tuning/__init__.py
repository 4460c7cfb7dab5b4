"""Tools that measure settings: whether scaling is worth it, calibration, estimates, and how far to trust confidence."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dynscale_dspy.tuning.check_report import Check
    from dynscale_dspy.tuning.checks import check
    from dynscale_dspy.tuning.recording import record

__all__ = ["Check", "check", "record"]

_HOME = {"Check": "check_report", "check": "checks", "record": "recording"}


def __getattr__(name: str) -> Any:
    # Loaded when first asked for: the command line looks in here before it is known whether DSPy is needed.
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    return value
