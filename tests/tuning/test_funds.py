import math

import pytest

from dynscale_dspy import BudgetExhausted, Cost, Price, Uniform
from dynscale_dspy.tuning.funds import Funds
from dynscale_dspy.tuning.verdict import Spending
from tests.support import started


def spend(funds, samples):
    pool = funds.pool(samples)
    for _ in range(samples):
        started(pool).settle()
    funds.book(pool, None, samples)


def test_each_run_gets_what_is_left_of_every_cap():
    funds = Funds({"samples": 10, "dollars": 0.5, "prices": {"m": Price(prompt=1, completion=1)}})
    assert funds.left("samples") == 10 and funds.left("requests") == math.inf
    pool = funds.pool(4, policy=Uniform(), seed=3)
    assert pool.statistics().limits["samples"] == 4 and pool.statistics().limits["dollars"] == 0.5
    assert pool.policy == Uniform() and pool.seed == 3 and pool.settings.prices
    spend(funds, 4)
    assert funds.spent == Cost(samples=4) and funds.left("samples") == 6
    assert funds.pool(8).statistics().limits["samples"] == 6
    spend(funds, 6)
    with pytest.raises(
        BudgetExhausted, match=r"^the budget of the check has no samples left: raise samples= of budget="
    ):
        funds.pool(1)


def test_a_number_is_a_cap_on_samples_and_nothing_is_no_cap():
    assert Funds(7).left("samples") == 7
    free = Funds()
    assert free.left("samples") == free.left("deadline") == math.inf
    assert free.shortage(Spending(1, 1, 10, 10, 1.0), 10**6) == ""


def test_a_shortage_is_told_before_it_costs_anything():
    funds = Funds({"requests": 100, "tokens": 5000})
    assert funds.shortage(Spending(1, 2, 10, 10), 50) == ""
    assert funds.shortage(Spending(1, 2, 10, 10), 60) == "it takes about 120 requests, and 100 are left"
    assert funds.shortage(Spending(1, 1, 50, 50), 60) == "it takes about 6,000 tokens, and 5,000 are left"
    assert funds.shortage(Spending(1, 1), 60) == ""


def test_a_deadline_is_one_for_all_runs():
    assert Funds({"deadline": 1e-9}).shortage(Spending(1, 1), 1) == "the deadline has passed"
    assert 0 < Funds({"deadline": 60}).pool(1).statistics().seconds_left <= 60


@pytest.mark.parametrize(
    ("budget", "error", "message"),
    [
        ("much", TypeError, "budget must be a number of samples, or caps by name such as"),
        (True, TypeError, "budget must be a number of samples, or caps by name such as"),
        (0, ValueError, "samples must be"),
        ({"dollars": -1}, ValueError, "dollars must be"),
        ({"euros": 1}, TypeError, "unexpected keyword argument 'euros'"),
        ({"samples": 3, "policy": Uniform()}, ValueError, "budget cannot have 'policy': the check sets that itself"),
    ],
)
def test_what_is_no_budget_is_refused(budget, error, message):
    with pytest.raises(error, match=message):
        Funds(budget)
