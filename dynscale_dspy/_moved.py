"""Modules of version 0.1 under their old names: importing one warns, and finds each name where it is now."""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

MOVED: dict[str, tuple[str, ...]] = {
    "allocation.leases": ("distributed.lease_book",),
    "allocation.ledger": ("allocation.costs", "budget.accounts", "budget.stores.base", "budget.stores.memory"),
    "answers": ("selection.answers", "execution.answer_reader"),
    "arms": ("budget.leases",),
    "calibrate": ("tuning.calibrate",),
    "confidence": ("tuning.reliability",),
    "distributed.journals": ("distributed.lease_log",),
    "distributed.keeper": ("distributed.coordinator",),
    "history": ("reporting.history",),
    "html": ("reporting.html",),
    "low": ("execution.fallback",),
    "plots": ("reporting.plots", "tuning.plots", "replay.plots"),
    "pool": ("budget.pool", "budget.leases", "reporting.statistics"),
    "prices": ("budget.prices",),
    "report": ("reporting.explanation",),
    "sampling.drivers": ("execution.drivers",),
    "sampling.folding": ("execution.shared_request",),
    "sampling.metering": ("execution.request_costs", "execution.lm_errors"),
    "sampling.overlay": ("execution.run", "execution.adapter", "execution.meter"),
    "sampling.planner": ("sampling.plan", "sampling.batch_plan", "sampling.steps"),
    "sampling.prefill": ("execution.prefill",),
    "settings": ("config",),
    "status": ("reporting.streaming", "execution.notices"),
    "storage": ("budget.stores.sqlite",),
    "telemetry": ("reporting.telemetry",),
    "text": ("reporting.text",),
    "throttle": ("budget.throttle",),
    "tracing": ("reporting.tracing",),
    "watch": ("reporting.live",),
    "whatif": ("tuning.what_if",),
}
"""Old module to the modules that have its names now, all below ``dynscale_dspy``."""

_PACKAGE = __name__.rpartition(".")[0]


class _OldNames(MetaPathFinder, Loader):
    """Finds modules by their old names."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The module's spec if it is one of the moved."""
        package, _, name = fullname.partition(".")
        return ModuleSpec(fullname, self) if package == _PACKAGE and name in MOVED else None

    def exec_module(self, module: ModuleType) -> None:
        """Fill an old module: its attributes are looked up in the new ones."""
        homes = [f"{_PACKAGE}.{home}" for home in MOVED[module.__name__.partition(".")[2]]]
        told = f"{module.__name__} has moved: import from {' or '.join(homes)}"
        warnings.warn(told, DeprecationWarning, stacklevel=2)

        def find(name: str) -> Any:
            for home in homes:
                found = importlib.import_module(home)
                if hasattr(found, name):
                    return getattr(found, name)
            raise AttributeError(f"module {module.__name__!r} has no attribute {name!r}")

        setattr(module, "__getattr__", find)  # noqa: B010  # a function of the module, which its type does not declare


def install() -> None:
    """Make old names importable. Calling it twice does nothing."""
    if not any(isinstance(finder, _OldNames) for finder in sys.meta_path):
        sys.meta_path.append(_OldNames())
