from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import pytest

from dynscale_dspy import BudgetPool, Cost, StorageError
from dynscale_dspy.distributed.coordinator import Coordinator
from dynscale_dspy.distributed.lease_book import Report

LIMITS: dict[str, int | None] = {"samples": 0, "requests": 0, "tokens": None, "nanodollars": None}
FIRST = Report("a", 1, Cost(), Cost(), LIMITS, want=Cost(samples=2, requests=2), need=Cost(samples=2, requests=2))


def coordinator(path: Path, expected: int | None = None, **limits) -> Coordinator:
    return Coordinator(BudgetPool(path=path, **limits), str(path), expected, False)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "budget.sqlite"


def test_what_it_answers_can_be_sent_to_another_process(path):
    keeps = coordinator(path, samples=12, dollars=0.5, seed=3)
    published = keeps.settings()
    assert published.capped == ("samples", "nanodollars")
    assert published.settings.seed == 3
    for value in (published, keeps.statistics(), keeps.leases()):
        assert pickle.loads(pickle.dumps(value)) == value
    answer = keeps.renew(FIRST)
    assert pickle.loads(pickle.dumps(answer)).grant.limits == answer.grant.limits


def test_a_report_is_answered_with_budget_and_how_the_pool_stands(path):
    keeps = coordinator(path, 4, samples=40, requests=400, deadline=60)
    answer = keeps.renew(FIRST)
    assert answer.grant.limits["samples"] >= 2
    assert (answer.state, answer.paced, answer.expected) == ("open", True, 4)
    assert answer.seconds_left is not None and 0 < answer.seconds_left <= 60
    keeps.control("pause")
    assert keeps.renew(replace(FIRST, number=2)).state == "paused"
    assert keeps.statistics().state == "paused"


def test_what_is_leased_is_reserved_until_it_is_reported_as_spent_or_given_back(path):
    keeps = coordinator(path, samples=40, requests=400)
    granted = keeps.renew(FIRST).grant.limits
    assert keeps.statistics().reserved.samples == granted["samples"]
    used, held = Cost(samples=2, requests=3), Cost(samples=1, requests=1)
    report = Report("a", 2, used, held, dict(granted), open_calls=1, closed_calls={2: 1})
    keeps.renew(report)
    now = keeps.statistics()
    assert (now.spent, now.open_calls, now.closed_calls) == (used, 1, 1)
    assert now.samples_per_call == {2: 1}
    keeps.close(replace(report, number=3, open_calls=0, closed_calls={}))
    now = keeps.statistics()
    assert (now.spent, now.reserved, now.open_calls) == (
        used + held,
        Cost(),
        0,
    )  # what is in flight counts at its bound
    assert keeps.leases().open_leases == 0


def test_the_lease_of_a_dead_holder_is_closed_once(path):
    keeps = coordinator(path, samples=40)
    keeps.renew(replace(FIRST, limits={**LIMITS, "requests": None}))
    assert keeps.close_for("a", Cost(samples=1))
    assert not keeps.close_for("a", Cost(samples=1))
    assert (keeps.statistics().spent, keeps.statistics().reserved) == (Cost(samples=1), Cost())


def test_the_end_counts_all_that_was_leased_as_spent(path):
    keeps = coordinator(path, samples=40, requests=400)
    granted = keeps.renew(FIRST).grant.limits
    keeps.finish()
    now = keeps.statistics()
    assert (now.spent.samples, now.reserved) == (granted["samples"], Cost())


def test_one_that_starts_again_near_the_end_takes_up_where_it_was(path):
    first = coordinator(path, 10, samples=12, requests=100)
    report = replace(FIRST, waiting=4, counts={"samples": (6.0, 0.0, 0.0, 0.0), "requests": (6.0, 0.0, 0.0, 0.0)})
    granted = first.renew(report).grant
    assert granted.limits["samples"] > 2  # what is free then would not do for ten calls
    again = coordinator(path, 10, samples=12, requests=100)
    now = again.statistics()
    assert now.reserved.samples == granted.limits["samples"]
    assert again.settings().budget == first.settings().budget
    before, after = (keeps.renew(replace(report, number=2, counts={})) for keeps in (first, again))
    for unit in ("samples", "requests"):
        was, there = before.grant.allowances[unit], after.grant.allowances[unit]
        assert (there.per_call, there.expected, there.counts) == (was.per_call, was.expected, was.counts)
    assert after.grant.allowances.keys() == before.grant.allowances.keys()
    assert after.grant.number == 2


def test_what_people_switched_survives_a_restart(path):
    first = coordinator(path, samples=12)
    first.expect(3)
    first.control("stop")
    again = coordinator(path, samples=12)
    answer = again.renew(replace(FIRST, limits={**LIMITS, "requests": None}))
    assert (answer.state, answer.expected, answer.paced) == ("stopped", 3, True)


def test_a_file_that_is_gone_is_not_made_anew(path):
    pool = BudgetPool(samples=12)
    with pytest.raises(StorageError, match="is not there any more: nothing is granted from a new one"):
        Coordinator(pool, str(path), None, False)


def test_a_temporary_file_goes_with_the_budget(path):
    for temporary in (False, True):
        keeps = Coordinator(BudgetPool(samples=12, path=path), str(path), None, temporary)
        keeps.forget()
        assert path.exists() is not temporary
    assert list(path.parent.iterdir()) == []
