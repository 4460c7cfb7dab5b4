from __future__ import annotations

import subprocess
import sys

import pytest

from dynscale_dspy.allocation.costs import Cost
from dynscale_dspy.budget.stores.sqlite import SQLiteStore
from dynscale_dspy.distributed.lease_log import LeaseLog, abandoned

HOLDER = """
import os, sys, signal
from dynscale_dspy.allocation.costs import Cost
from dynscale_dspy.budget.accounts import Ledger
from dynscale_dspy.distributed.lease_log import LeaseLog
from dynscale_dspy.budget.stores.sqlite import SQLiteStore
log = LeaseLog("budget", "a")
ledger = Ledger(samples=10, store=SQLiteStore(log.path))
for _ in range(3):
    ledger.settle(ledger.reserve(Cost(samples=1, requests=2)), Cost(samples=1, requests=1))
ledger.reserve(Cost(samples=1, requests=2))
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    return tmp_path


def files(folder):
    return [path.name for path in folder.rglob("*") if path.is_file()]


def test_what_a_killed_holder_spent_is_read_once(folder):
    assert subprocess.run([sys.executable, "-c", HOLDER]).returncode == -9
    with abandoned("budget") as found:
        # What was in flight counts at its bound.
        assert found == {"a": Cost(samples=4, requests=5)}
    with abandoned("budget") as found:
        assert found == {}
    assert files(folder) == []


def test_if_it_cannot_be_told_it_stays_to_be_read(folder):
    subprocess.run([sys.executable, "-c", HOLDER])
    with pytest.raises(ConnectionError), abandoned("budget"):
        raise ConnectionError
    with abandoned("budget") as found:
        assert set(found) == {"a"}


def test_a_living_holder_is_left_alone(folder):
    log = LeaseLog("budget", "b")
    SQLiteStore(log.path).close()
    with abandoned("budget") as found:
        assert found == {}
    log.remove()
    assert files(folder) == []


def test_a_holder_that_died_before_its_first_sample_has_spent_nothing(folder):
    LeaseLog("budget", "c").leave()
    with abandoned("budget") as found:
        assert found == {"c": Cost()}


def test_a_damaged_record_is_not_believed(folder):
    log = LeaseLog("budget", "d")
    log.path.write_bytes(b"not a budget")
    log.leave()
    with abandoned("budget") as found:
        assert found == {}
    assert "d.sqlite" in files(folder)


def test_one_reader_at_a_time(folder):
    subprocess.run([sys.executable, "-c", HOLDER])
    with abandoned("budget") as found, abandoned("budget") as again:
        assert (set(found), again) == ({"a"}, {})


def test_a_holder_that_leaves_can_be_read_and_then_nothing_is_left(folder):
    log = LeaseLog("budget", "e")
    store = SQLiteStore(log.path)
    store.settle(store.reserve(Cost(samples=2), {}), Cost(samples=1))
    store.close()
    log.leave()
    with abandoned("budget") as found:
        assert found == {"e": Cost(samples=1)}
    assert files(folder) == []


def test_a_holder_that_ends_without_closing_its_lease_is_read(folder):
    code = "from dynscale_dspy.distributed.lease_log import LeaseLog; log = LeaseLog('budget', 'f')"
    subprocess.run([sys.executable, "-c", code], check=True)
    with abandoned("budget") as found:
        assert found == {"f": Cost()}
    assert files(folder) == []
