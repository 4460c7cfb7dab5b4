"""A store that fails: no sample is lost, and nothing stays reserved once it works again."""

from __future__ import annotations

import itertools
import logging
import sqlite3
from contextlib import closing

import dspy
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, rule

from dynscale_dspy import BudgetPool, Cost, DynScaling
from dynscale_dspy.budget.accounts import Ledger
from dynscale_dspy.budget.stores.backlog import Backlog
from dynscale_dspy.budget.stores.memory import MemoryStore
from dynscale_dspy.budget.stores.sqlite import SQLiteStore
from dynscale_dspy.errors import StorageError


class Failing:
    """A store in memory whose calls raise where it is told to."""

    def __init__(self, *, is_durable=False, fails=lambda number: False):
        self.kept = MemoryStore()
        self.is_durable = is_durable
        self.fails = fails
        self.calls = 0

    def __getattr__(self, name):
        method = getattr(self.__dict__["kept"], name)

        def call(*args, **kwargs):
            self.calls += 1
            if self.fails(self.calls):
                raise OSError("no space left")
            return method(*args, **kwargs)

        return call


def mended(store):
    store.fails = lambda number: False


def always(number):
    return True


AMOUNTS = st.builds(Cost, st.integers(0, 3), st.integers(0, 3), st.integers(0, 50), nanodollars=st.integers(0, 50))


class BacklogMachine(RuleBasedStateMachine):
    """A scope in memory on a ledger whose store comes and goes: nothing is lost, and nothing changes by halves."""

    reservations = Bundle("reservations")

    def __init__(self):
        super().__init__()
        self.store = Failing()
        self.around = Ledger(samples=20, tokens=400, store=self.store)
        self.scope = Ledger(samples=12, parent=self.around)
        self.held, self.used = {}, Cost()

    @rule(broken=st.booleans())
    def breaks(self, broken):
        self.store.fails = always if broken else lambda number: False

    @rule(after=st.integers(1, 4))
    def breaks_at_a_later_call(self, after):
        place = self.store.calls + after
        self.store.fails = lambda number: number == place

    @rule(target=reservations, amount=AMOUNTS)
    def reserve(self, amount):
        try:
            found = self.scope.reserve(amount)
        except StorageError:
            found = None
        if found is None:
            return multiple()
        self.held[found] = amount
        return found

    @rule(reservation=reservations, more=AMOUNTS)
    def extend(self, reservation, more):
        if reservation in self.held:
            try:
                if self.scope.extend(reservation, more):
                    self.held[reservation] += more
            except StorageError:
                pass

    @rule(reservation=consumes(reservations), used=AMOUNTS)
    def settle(self, reservation, used):
        del self.held[reservation]
        self.scope.settle(reservation, used)
        self.used += used

    @invariant()
    def the_scope_is_exact(self):
        assert (self.scope.spent, self.scope.reserved) == (self.used, sum(self.held.values(), Cost()))

    @invariant()
    def nothing_is_forgotten(self):
        store = self.around.store
        assert isinstance(store, Backlog)
        if store._seen is not None or self.store.fails is not always:
            try:
                spent, reserved = store.totals()
            except StorageError:
                return
            assert spent == self.used
            assert reserved.samples == sum(held.samples for held in self.held.values())

    def teardown(self):
        mended(self.store)
        for reservation in list(self.held):
            self.scope.refund(reservation)
        free = self.around.reserve(Cost())
        assert free is not None
        self.around.refund(free)
        assert self.store.kept.totals() == (self.used, Cost())


TestBacklog = BacklogMachine.TestCase


class Counting(dspy.Module):
    """No two of its runs agree, so that a call asks for more."""

    def __init__(self):
        super().__init__()
        self.runs = itertools.count()

    def forward(self, question):
        return dspy.Prediction(answer=str(next(self.runs)))


def outcome(act):
    try:
        act()
        return "answered"
    except StorageError as error:
        assert "no space left" in str(error)
        return "refused"


@pytest.mark.parametrize("is_durable", [False, True])
@pytest.mark.parametrize("once", [True, False])
@pytest.mark.parametrize("how", ["call", "scope", "batch", "period"])
def test_wherever_a_store_fails_a_call_answers_or_says_so_and_nothing_stays_reserved(is_durable, once, how):
    seen = set()
    for place in itertools.count(1):
        store = Failing(is_durable=is_durable)
        pool = BudgetPool(samples=100, per_call=4, store=store, **({"period": "hour"} if how == "period" else {}))
        program = Counting()
        qa = DynScaling(program, budget=pool)
        first = store.calls + place
        store.fails = (lambda n, first=first: n == first) if once else (lambda n, first=first: n >= first)

        def act(pool=pool, qa=qa):
            if how == "scope":
                with pool.scope(samples=10):
                    qa(question="?")
            elif how == "batch":
                inputs = [dspy.Example(question=str(n)).with_inputs("question") for n in range(3)]
                assert all(qa.batch(inputs, num_threads=1, disable_progress_bar=True))
            else:
                qa(question="?")

        ended = outcome(act)
        drawn = next(program.runs)
        assert ended == "answered" or not drawn, f"{drawn} samples were lost at call {place} of the store"
        seen.add(ended)
        reached = store.calls >= first
        mended(store)
        state = pool.statistics()
        assert (state.reserved, state.open_calls, state.spent.samples) == (Cost(), 0, drawn)
        qa(question="again")
        assert store.kept.totals()[1] == Cost()
        assert store.kept.totals()[0] == pool.statistics().spent
        if not reached:
            break
    assert seen == {"answered", "refused"}


def test_what_could_not_be_settled_is_said_once_and_counts_until_it_is(caplog):
    store = Failing()
    ledger = Ledger(samples=5, store=store)
    held = [ledger.reserve(Cost(samples=1)) for _ in range(3)]
    assert ledger.reserved.samples == 3
    store.fails = always
    with caplog.at_level(logging.WARNING, "dynscale_dspy"):
        for each in held:
            assert each is not None
            ledger.settle(each, Cost(samples=2))
        assert (ledger.spent, ledger.reserved) == (Cost(samples=6), Cost())
        with pytest.raises(StorageError, match="failed with OSError: no space left. See to it and go on"):
            ledger.reserve(Cost(samples=1))
        mended(store)
        assert ledger.reserve(Cost(samples=1)) is None
    assert [record.levelname for record in caplog.records] == ["ERROR", "WARNING"]
    assert "could not be settled and stays reserved until its store works again" in caplog.messages[0]
    assert store.kept.totals() == (Cost(samples=6), Cost())


@pytest.fixture
def path(tmp_path, monkeypatch):
    monkeypatch.setattr("dynscale_dspy.budget.stores.sqlite._BUSY", 0.05)
    return tmp_path / "budget.sqlite"


def test_a_file_that_another_process_holds(path):
    pool = BudgetPool(samples=10, path=path)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StorageError, match="database is locked. Another process holds it: end that"):
            DynScaling(Counting(), budget=pool)(question="?")
    assert pool.statistics().reserved == Cost()
    DynScaling(Counting(), budget=pool)(question="?")


def test_a_file_that_was_replaced_is_not_written(path):
    store = SQLiteStore(path)
    handle = store.reserve(Cost(samples=1), {})
    path.rename(path.with_suffix(".away"))
    with pytest.raises(StorageError, match="was deleted or replaced while it was in use: put it back"):
        store.settle(handle, Cost(samples=1))
    path.touch()
    with pytest.raises(StorageError, match="was deleted or replaced"):
        store.reserve(Cost(samples=1), {})
    assert path.read_bytes() == b""
    path.with_suffix(".away").rename(path)
    store.settle(handle, Cost(samples=1))
    assert store.totals() == (Cost(samples=1), Cost())
    store.close()
