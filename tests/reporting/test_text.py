"""Pools and predictions in words."""

from __future__ import annotations

import dspy
import pytest

from dynscale_dspy import BudgetExhausted, BudgetPool, Cost, DynScaling, Parallel, Uniform
from dynscale_dspy.reporting import text
from dynscale_dspy.reporting.explanation import Explanation, Votes
from dynscale_dspy.reporting.history import History
from dynscale_dspy.reporting.pool_report import PoolReport
from dynscale_dspy.reporting.statistics import PoolStatistics
from tests.support import ScriptedModel, cycle


def test_a_scope_in_an_empty_pool_says_which_is_empty():
    pool = BudgetPool(samples=4, policy=Uniform())
    qa = DynScaling(dspy.Predict("question -> answer"), budget=pool, sampling=Parallel())
    with dspy.context(lm=ScriptedModel(cycle("A")).lm()):
        qa.batch([{"question": "one"}], disable_progress_bar=True)
        with pool.scope(samples=3), pytest.raises(BudgetExhausted, match=r": 4 of 4 samples of the pool are spent, .*"):
            qa(question="two")


def test_a_halted_pool_says_so_and_why():
    limits = {"samples": 9, "requests": None, "tokens": None, "dollars": 0.25}
    now = PoolStatistics(Cost(samples=3), Cost(), limits, 5.0, 2, 1, 0, None, {}, state="stopped", cause="TimeoutError")
    assert text.one_line(now) == (
        "BudgetPool(3 of 9 samples, 0 requests, 0 of 0.25 dollars, 5 s left spent; 1 call answered, 2 open; "
        "stopped by TimeoutError)"
    )
    report = PoolReport(now, History((), (), {}))
    assert text.pool(report).startswith("BudgetPool, stopped by TimeoutError: 1 call answered, 2 open, 5 s left\n")


def test_votes_are_counts_where_they_are_whole_and_weights_where_not():
    votes = (Votes("A", 2, 1), Votes("B", 0.5, 0))
    lines = text.explanation(Explanation(votes, 0.857, 0.9, (), 1, Cost())).splitlines()
    assert lines[1:3] == ["    3  A (1 of them saw earlier attempts)", "  0.5  B"]


def test_nothing_in_a_report_acts_on_a_terminal():
    for escape in (
        "\x1b]52;c;ZXZpbA==\x07",
        "\x1b[2J",
        "\x9b2J",
        "\x08",
        "\r",
        "\u202e",
        "\u2028",
        "\ud800",
        "\U000e0041",
    ):
        assert text.harmless(f"a{escape}b").encode() and escape not in text.harmless(f"a{escape}b")
    assert text.harmless("a\tb\nc é 👩\u200d🔬") == "a\tb\nc é 👩\u200d🔬"
    assert text.said(10**5000) == "(int without text)"
