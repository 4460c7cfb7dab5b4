from __future__ import annotations

import logging
import warnings
from typing import Any

import pytest

from dynscale_dspy import Cost
from dynscale_dspy.budget.accounts import Ledger
from dynscale_dspy.budget.alerts import CapAlerts, CapPassed

POOL: Any = object()


def spend(ledger: Ledger, cost: Cost) -> None:
    held = ledger.reserve(cost)
    assert held is not None
    ledger.settle(held, cost)


def test_each_cap_is_warned_of_once_when_its_share_is_spent():
    alerts, ledger = CapAlerts(POOL, 0.5, lambda warning: None), Ledger(samples=10, nanodollars=4 * 10**9)
    spend(ledger, Cost(samples=4))
    assert alerts.due(ledger) == []
    spend(ledger, Cost(samples=1, nanodollars=3 * 10**9))
    assert [str(warning) for warning in alerts.due(ledger)] == ["5 of 10 samples are spent", "3 of 4 dollars are spent"]
    spend(ledger, Cost(samples=1))
    assert alerts.due(ledger) == []
    alerts.reset()
    assert len(alerts.due(ledger)) == 2


def test_without_a_share_nothing_is_due():
    ledger = Ledger(samples=1)
    spend(ledger, Cost(samples=1))
    assert CapAlerts(POOL, None).due(ledger) == []


def test_by_default_a_warning_is_logged_and_a_faulty_function_is_only_named(caplog):
    ledger = Ledger(samples=1)
    spend(ledger, Cost(samples=1))

    def faulty(warning):
        raise KeyError("secret")

    with caplog.at_level(logging.WARNING, "dynscale_dspy"):
        for alerts in (CapAlerts(POOL, 1.0), CapAlerts(POOL, 1.0, faulty)):
            for warning in alerts.due(ledger):
                alerts.send(warning)
    assert caplog.messages == ["1 of 1 samples are spent", "on_warning failed with KeyError"]


def test_what_interrupts_passes_through():
    def interrupted(warning):
        raise KeyboardInterrupt

    ledger = Ledger(samples=1)
    spend(ledger, Cost(samples=1))
    alerts = CapAlerts(POOL, 1.0, interrupted)
    (warning,) = alerts.due(ledger)
    with pytest.raises(KeyboardInterrupt):
        alerts.send(warning)


# ---- caps that are passed


def test_a_cap_that_is_passed_is_said_first_and_whenever_the_excess_has_doubled():
    alerts, limits = CapAlerts(POOL, None), {"samples": None, "tokens": 100, "nanodollars": 10**9}
    said = [alerts.passed(None, Cost(prompt_tokens=tokens), limits) for tokens in (100, 101, 101, 102, 103, 104, 900)]
    assert [len(each) for each in said] == [0, 1, 0, 1, 0, 1, 1]
    assert said[-1][0].startswith("a cap of 100 tokens is passed by 800: ")
    assert alerts.passed("a share", Cost(prompt_tokens=101), limits)
    (money,) = alerts.passed(None, Cost(nanodollars=1_250_000_000), limits)
    assert money.startswith("a cap of 1 dollars is passed by 0.25: language models report more than could be set aside")
    alerts.reset()
    assert alerts.passed(None, Cost(prompt_tokens=101), limits)


def test_it_is_logged_and_warned_of_and_a_filter_that_raises_loses_nothing(caplog):
    with caplog.at_level(logging.WARNING, "dynscale_dspy"):
        with pytest.warns(CapPassed, match="a cap is passed"):
            CapAlerts.say("a cap is passed")
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            CapAlerts.say("a cap is passed")
    assert caplog.messages == ["a cap is passed", "a cap is passed"]
