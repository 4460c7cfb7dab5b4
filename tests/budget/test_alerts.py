from __future__ import annotations

import logging
from typing import Any

import pytest

from dynscale_dspy import Cost
from dynscale_dspy.budget.accounts import Ledger
from dynscale_dspy.budget.alerts import CapAlerts

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
