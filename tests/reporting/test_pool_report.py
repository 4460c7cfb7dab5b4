"""Reports are values: nothing in this folder needs a pool, a module or a plan."""

from __future__ import annotations

import ast
import subprocess
import sys
from dataclasses import FrozenInstanceError
from pathlib import Path
from types import MappingProxyType

import pytest

import dynscale_dspy
from dynscale_dspy import BudgetPool
from dynscale_dspy.reporting.pool_report import PoolReport


def test_a_report_is_frozen_and_does_not_follow_its_pool():
    pool = BudgetPool(samples=10)
    report = pool.report()
    pool.stop()
    assert report.statistics.state == "open" and pool.report().statistics.state == "stopped"
    assert report == PoolReport(report.statistics, pool.history, ()) and isinstance(
        report.statistics.limits, MappingProxyType
    )
    with pytest.raises(FrozenInstanceError):
        report.title = "other"  # type: ignore[misc]


def test_reporting_imports_nothing_that_acts():
    code = """
import importlib, pkgutil, sys
acting = ["budget", "module", "execution", "sampling.plan", "tuning", "replay", "distributed", "wrapping"]
for name in acting:
    sys.modules[f"dynscale_dspy.{name}"] = None  # importing it raises
import dynscale_dspy.reporting as reporting
for module in pkgutil.walk_packages(reporting.__path__, "dynscale_dspy.reporting."):
    importlib.import_module(module.name)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


FILES = sorted((Path(dynscale_dspy.__path__[0]) / "reporting").glob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_not_even_lazily_or_for_types(path):
    allowed = ("allocation.costs", "allocation.evidence", "selection.base", "selection.groups", "sampling.sample")
    allowed += ("errors", "_deprecated", "_words")
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            package, _, rest = name.partition(".")
            if package == "dynscale_dspy":
                assert rest.startswith(("reporting.", *allowed)), f"line {node.lineno} imports {name}"
