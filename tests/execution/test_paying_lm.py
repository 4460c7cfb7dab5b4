"""Requests of tasks, charged in a thread. tests/execution/test_books.py has whole calls on a pool in a store."""

from __future__ import annotations

import threading

import dspy
import pytest

from dynscale_dspy import BudgetPool, Uniform
from dynscale_dspy.execution.listener import LISTENER
from dynscale_dspy.execution.meter import SETTING, CallRefused, Meter
from dynscale_dspy.execution.paying_lm import PayingLM
from tests.support import ScriptedModel, needs_lm_errors, started

pytestmark = needs_lm_errors


def metered(pool: BudgetPool) -> tuple[Meter, ScriptedModel, PayingLM]:
    model = ScriptedModel(lambda prompt, n: "[[ ## answer ## ]]\nA")
    meter = Meter(started(pool), pool.admission, None)
    return meter, model, PayingLM(model.lm(), meter)


async def ask(meter: Meter, lm: PayingLM):
    with dspy.context(callbacks=[LISTENER], **{SETTING: meter}):
        return await lm.acall(messages=[{"role": "user", "content": "?"}])


async def test_a_request_is_charged_once_and_in_another_thread(monkeypatch):
    meter, model, lm = metered(BudgetPool(samples=3, policy=Uniform()))
    assert meter.lease is not None
    charge, threads = meter.lease.charge, []

    def charging(*arguments, **options):
        threads.append(threading.current_thread())
        return charge(*arguments, **options)

    monkeypatch.setattr(meter.lease, "charge", charging)
    await ask(meter, lm)
    assert len(model.requests) == 1 == len(threads)
    assert threads[0] is not threading.main_thread()
    assert meter.lease.settle().requests == 1


async def test_a_request_that_cannot_be_paid_is_not_made():
    pool = BudgetPool(requests=1, policy=Uniform())
    meter, model, lm = metered(pool)
    await ask(meter, lm)
    with pytest.raises(CallRefused):
        await ask(meter, lm)
    assert len(model.requests) == 1
    assert meter.lease is not None
    cost = meter.lease.settle()
    assert (cost.samples, cost.requests) == (1, 1)


def test_everything_else_is_the_language_models():
    _, model, lm = metered(BudgetPool(samples=1))
    assert lm.model == model.lm().model
