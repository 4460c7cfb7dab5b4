"""The figures of a pool at one moment."""

from __future__ import annotations

import math
import pickle

import pytest

from dynscale_dspy import BudgetPool
from dynscale_dspy.budget import pool as budget_pool
from dynscale_dspy.reporting.statistics import Limits, PoolStatistics, limits_in_dollars


def test_metrics_are_plain_numbers_for_each_unit():
    pool = BudgetPool(samples=10, dollars=2, deadline=60)
    metrics = pool.statistics().metrics()
    assert all(type(value) is float and math.isfinite(value) for value in metrics.values())
    assert metrics["dynscale.left.samples"] == 10 and metrics["dynscale.left.dollars"] == 2
    assert "dynscale.left.tokens" not in metrics and 0 < metrics["dynscale.left.seconds"] <= 60


def test_mlflow_takes_the_metrics(tmp_path):
    from mlflow.entities import Metric
    from mlflow.utils.validation import _validate_metric

    for name, value in BudgetPool(samples=10, requests=20, dollars=2).statistics().metrics().items():
        _validate_metric(name, value, 0, 0)
        assert Metric(name, value, 0, 0).value == value


def test_requests_are_found_under_the_name_of_version_0_1_with_a_warning():
    limits = limits_in_dollars({"samples": None, "requests": 7, "tokens": None, "nanodollars": 1_500_000_000})
    assert limits == {"samples": None, "requests": 7, "tokens": None, "dollars": 1.5}
    with pytest.warns(DeprecationWarning, match="^the unit 'calls' is deprecated: use 'requests'$") as warned:
        assert limits["calls"] == 7
    assert warned[0].filename == __file__
    with pytest.raises(KeyError, match="hours"):
        limits["hours"]
    copy = pickle.loads(pickle.dumps(limits))
    assert copy == limits and type(copy) is Limits


def test_the_statistics_of_a_pool_are_these():
    assert budget_pool.PoolStatistics is PoolStatistics
    assert type(BudgetPool(samples=1).statistics()) is PoolStatistics
