"""Whatever is passed to a public argument is taken, or refused by its name before anything is spent."""

from __future__ import annotations

import decimal
import inspect
import math

import dspy
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import dynscale_dspy as ds
from dynscale_dspy.config import PoolSettings, ScalingSettings, ScopeSettings

JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=5),
    st.binary(max_size=3),
    st.decimals(),
    st.complex_numbers(),
    st.lists(st.integers(), max_size=2),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
    st.sampled_from(
        [
            math.inf,
            10**400,
            10**30,
            -(10**30),
            1e308,
            5e-324,
            math.nan,
            decimal.Decimal("NaN"),
            object(),
            int,
            len,
            Ellipsis,
        ]
    ),
)
MODULE = dspy.Predict("question -> answer")


def pool(**arguments):
    return ds.BudgetPool(**{"samples": 5, **arguments})


def scope(**arguments):
    with ds.BudgetPool(samples=5).scope(**{"samples": 5, **arguments}) as inner:
        return inner


def wrapper(**arguments):
    return ds.DynScaling(**{"module": MODULE, "budget": 2, **arguments})


MAKERS = {
    "BudgetPool": (pool, PoolSettings, {"path"}),  # junk would become files
    "scope": (scope, ScopeSettings, set()),
    "expect": (ds.BudgetPool(samples=5).expect, ds.BudgetPool.expect, set()),
    "reserve_for": (
        lambda fraction: ds.BudgetPool(samples=5).reserve_for(MODULE, fraction),
        ds.BudgetPool.reserve_for,
        {"module"},
    ),
    "available": (ds.BudgetPool(samples=5).available, ds.BudgetPool.available, set()),
    "Price": (lambda **given: ds.Price(**{"prompt": 1, "completion": 1, **given}), ds.Price.__init__, set()),
    "settings": (wrapper, ScalingSettings, set()),
    "DynScaling": (wrapper, ds.DynScaling.__init__, set(ScalingSettings.model_fields)),
    "Integrated": (ds.Integrated, ds.Integrated.__init__, set()),
    "Sequential": (ds.Sequential, ds.Sequential.__init__, set()),
    "KnowledgeGradient": (ds.KnowledgeGradient, ds.KnowledgeGradient.__init__, set()),
    "UCB": (ds.UCB, ds.UCB.__init__, set()),
    "Uniform": (ds.Uniform, ds.Uniform.__init__, set()),
}
ARGUMENTS = [
    (maker, name)
    for maker, (_, declared, skipped) in MAKERS.items()
    for name in (getattr(declared, "model_fields", None) or inspect.signature(declared).parameters)
    if name not in {"self", *skipped} and not name.startswith("_")
]


@pytest.mark.parametrize(("maker", "name"), ARGUMENTS)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(value=JUNK)
def test_an_argument_is_taken_or_refused_by_its_name(maker, name, value):
    make = MAKERS[maker][0]
    try:
        made = make(**{name: value})
    except (TypeError, ValueError) as error:
        assert name in str(error)
    else:
        if isinstance(made, ds.BudgetPool):
            assert made.statistics().spent == made.statistics().reserved == ds.Cost()
            assert repr(made)


def test_there_are_such_arguments():
    assert len(ARGUMENTS) > 40
