from __future__ import annotations

import subprocess
import sys

import pytest

from dynscale_dspy.allocation.costs import Cost
from dynscale_dspy.budget.stores.sqlite import SQLiteStore
from dynscale_dspy.distributed.lease_log import Journal, deserted

HOLDER = """
import os, sys, signal
from dynscale_dspy.allocation.costs import Cost
from dynscale_dspy.budget.accounts import Ledger
from dynscale_dspy.distributed.lease_log import Journal
from dynscale_dspy.budget.stores.sqlite import SQLiteStore
journal = Journal("budget", "a")
ledger = Ledger(samples=10, store=SQLiteStore(journal.path))
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
    with deserted("budget") as found:
        # What was in flight counts at its bound.
        assert found == {"a": Cost(samples=4, requests=5)}
    with deserted("budget") as found:
        assert found == {}
    assert files(folder) == []


def test_if_it_cannot_be_told_it_stays_to_be_read(folder):
    subprocess.run([sys.executable, "-c", HOLDER])
    with pytest.raises(ConnectionError), deserted("budget"):
        raise ConnectionError
    with deserted("budget") as found:
        assert set(found) == {"a"}


def test_a_living_holder_is_left_alone(folder):
    journal = Journal("budget", "b")
    SQLiteStore(journal.path).close()
    with deserted("budget") as found:
        assert found == {}
    journal.remove()
    assert files(folder) == []


def test_a_holder_that_died_before_its_first_sample_has_spent_nothing(folder):
    Journal("budget", "c").leave()
    with deserted("budget") as found:
        assert found == {"c": Cost()}


def test_a_damaged_record_is_not_believed(folder):
    journal = Journal("budget", "d")
    journal.path.write_bytes(b"not a budget")
    journal.leave()
    with deserted("budget") as found:
        assert found == {}
    assert "d.sqlite" in files(folder)
