"""A budget in a file: several processes, kill -9, damage, and a run that is taken up again."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import textwrap
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import dspy
import pytest

from dynscale_dspy import BudgetPool, Cost, DynScaling, StorageError, Uniform
from dynscale_dspy.budget.stores import sqlite as sqlite_store
from dynscale_dspy.budget.stores.sqlite import SQLiteStore, remove_budget
from dynscale_dspy.testing import FakeServer, questions
from tests.support import HAS_ENGINES, ScriptedModel, cycle, open_call

BANK = questions(12)


def run(code: str, *arguments: object) -> subprocess.Popen[str]:
    """Another Python, which tells what it does line by line."""
    return subprocess.Popen(
        [sys.executable, "-u", "-c", textwrap.dedent(code), *map(str, arguments)], stdout=subprocess.PIPE, text=True
    )


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


HOLDER = """
    import sys
    from dynscale_dspy.allocation.costs import Cost
    from dynscale_dspy.budget.accounts import Ledger
    from dynscale_dspy.budget.stores.sqlite import SQLiteStore
    ledger = Ledger(samples=10, store=SQLiteStore(sys.argv[1]))
    done = ledger.reserve(Cost(samples=1, requests=2))
    ledger.settle(done, Cost(samples=1, requests=2, prompt_tokens=30, nanodollars=7))
    held = ledger.reserve(Cost(samples=3, requests=6))
    print("held")
    sys.stdin.read()
"""


def test_what_a_killed_process_held_counts_until_it_is_reconciled(tmp_path):
    path = tmp_path / "budget.sqlite"
    process = run(HOLDER, path)
    assert line(process) == "held"
    pool = BudgetPool(samples=10, path=path)
    spent = Cost(samples=1, requests=2, prompt_tokens=30, nanodollars=7)
    assert (pool.statistics().spent, pool.statistics().reserved) == (spent, Cost(samples=3, requests=6))
    assert pool.reconcile() == Cost()  # it lives, and may still settle
    process.send_signal(signal.SIGKILL)
    process.wait()
    again = BudgetPool(samples=10, path=path)
    assert again.statistics().reserved == Cost(samples=3, requests=6)
    assert again.available("samples") == 6
    assert again.reconcile() == Cost(samples=3, requests=6)
    for now in (pool.statistics(), again.statistics()):
        assert (now.spent, now.reserved) == (spent + Cost(samples=3, requests=6), Cost())
    assert pool.reconcile() == Cost()


def test_what_is_known_to_have_cost_nothing_is_given_back(tmp_path):
    path = tmp_path / "budget.sqlite"
    process = run(HOLDER, path)
    assert line(process) == "held"
    process.send_signal(signal.SIGKILL)
    process.wait()
    pool = BudgetPool(samples=10, path=path)
    assert pool.reconcile(refund=True) == Cost(samples=3, requests=6)
    assert pool.available("samples") == 9


@pytest.mark.parametrize("end", ["SIGKILL", "SIGTERM", "SystemExit"])
def test_a_process_ended_at_any_instant_leaves_exact_books(end, tmp_path):
    code = f"""
        import signal, sys
        if {end == "SystemExit"}:  # as Gunicorn's workers end
            signal.signal(signal.SIGTERM, lambda *_: sys.exit())
        from dynscale_dspy.allocation.costs import Cost
        from dynscale_dspy.budget.accounts import Ledger
        from dynscale_dspy.budget.stores.sqlite import SQLiteStore
        ledger = Ledger(samples=10**9, store=SQLiteStore(sys.argv[1]))
        number = 0
        while True:
            held = ledger.reserve(Cost(samples=1, requests=3))
            ledger.extend(held, Cost(requests=1))
            ledger.settle(held, Cost(samples=1, requests=2), sample=(b"call", number))
            number += 1
            print(number)
    """
    for kill_after in (1, 7, 40):
        path = tmp_path / f"budget-{kill_after}.sqlite"
        process = run(code, path)
        for _ in range(kill_after):
            told = int(line(process))
        process.send_signal(signal.SIGKILL if end == "SIGKILL" else signal.SIGTERM)
        rest = process.communicate()[0].split()
        told = int(rest[-1]) if rest else told
        store = SQLiteStore(path)
        spent, reserved = store.totals()
        # One sample may have been settled and not told; one may be in flight, with what it was extended by or without.
        assert spent.samples in (told, told + 1)
        assert spent.requests == 2 * spent.samples
        assert store.paid(b"call") == frozenset(range(spent.samples))
        assert reserved in (Cost(), Cost(samples=1, requests=3), Cost(samples=1, requests=4))
        assert store.reconcile() == reserved
        assert store.totals() == (spent + reserved, Cost())
        store.close()


def test_processes_that_share_a_file_cannot_pass_its_cap(tmp_path):
    code = """
        import sys
        from dynscale_dspy import BudgetPool
        pool = BudgetPool(samples=200, requests=300, path=sys.argv[1])
        drawn = requests = 0
        while (arm := pool.admission.open(["independent"])) is not None:
            lease = arm.take()
            if lease.start():
                for _ in range(1 + drawn % 2):
                    charge = lease.charge()
                    if charge:
                        requests += 1
                        lease.answered(charge, charge.bound)
                lease.settle()
                drawn += 1
            arm.close()
        print(drawn, requests)
    """
    path = tmp_path / "budget.sqlite"
    processes = [run(code, path) for _ in range(3)]
    drawn, requests = map(sum, zip(*(map(int, line(process).split()) for process in processes), strict=True))
    for process in processes:
        process.communicate()
    now = BudgetPool(samples=200, requests=300, path=path).statistics()
    assert (now.spent.samples, now.spent.requests) == (drawn, requests)
    assert now.reserved == Cost()
    assert requests == 300 or drawn == 200
    assert drawn <= 200 and requests <= 300


def test_threads_share_a_file(tmp_path):
    pool = BudgetPool(samples=60, path=tmp_path / "budget.sqlite")

    def work() -> None:
        while (arm := open_call(pool)) is not None:
            lease = arm.take()
            lease.start()
            lease.charge()
            lease.settle()
            arm.close()

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert pool.statistics().spent == Cost(samples=60, requests=60)


def test_a_period_is_the_files(tmp_path):
    now = [7200.0]
    pool, other = (
        BudgetPool(samples=5, path=tmp_path / "budget.sqlite", period="hour", clock=lambda: now[0]) for _ in range(2)
    )
    arm = open_call(pool)
    assert arm is not None
    lease = arm.take()
    lease.start()
    lease.settle()
    assert other.statistics().spent.samples == 1
    now[0] += 3600
    assert other.statistics().spent.samples == 0
    assert pool.statistics().spent.samples == 0


# ---- owners

FORKER = """
    import os, sys
    from dynscale_dspy.allocation.costs import Cost
    from dynscale_dspy.budget.stores.sqlite import SQLiteStore
    store = SQLiteStore(sys.argv[1])
    def spend(store):
        store.settle(store.reserve(Cost(samples=1), {}), Cost(samples=1))
"""


def forker(code: str, *arguments: object) -> subprocess.Popen[str]:
    return run(textwrap.dedent(FORKER) + textwrap.dedent(code), *arguments)


def test_a_process_in_another_namespace_lives(tmp_path):
    path = tmp_path / "budget.sqlite"
    unshare = ["unshare", "-pf", "--mount-proc"] if os.geteuid() == 0 else ["unshare", "-Urpf", "--mount-proc"]
    if shutil.which("unshare") is None or subprocess.run([*unshare, "true"], capture_output=True).returncode:
        pytest.skip("no other process id namespace can be made here")
    store = SQLiteStore(path)
    process = subprocess.Popen(
        [*unshare, sys.executable, "-u", "-c", textwrap.dedent(HOLDER), str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert line(process) == "held"
    assert store.reconcile() == Cost()
    (there,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(there), signal.SIGKILL)
    process.communicate()
    assert store.reconcile() == Cost(samples=3, requests=6)
    store.close()


def test_a_file_of_version_0_1_is_opened_and_its_owners_are_known_by_their_processes(tmp_path):
    path, ended = tmp_path / "budget.sqlite", run("")
    ended.communicate()
    units = "samples, calls, prompt_tokens, completion_tokens, cached_tokens, nanodollars, cached_calls"
    integers = ", ".join(f"{unit} INTEGER NOT NULL DEFAULT 0" for unit in units.split(", "))
    connection = sqlite3.connect(path)
    connection.executescript(
        f"""
        CREATE TABLE totals (kind TEXT PRIMARY KEY, {integers}) WITHOUT ROWID;
        CREATE TABLE period (number INTEGER);
        CREATE TABLE reservations (handle INTEGER PRIMARY KEY, owner TEXT NOT NULL, {integers});
        CREATE TABLE owners (owner TEXT PRIMARY KEY, pid INTEGER NOT NULL, born TEXT NOT NULL) WITHOUT ROWID;
        CREATE TABLE paid (call BLOB NOT NULL, sample INTEGER NOT NULL, PRIMARY KEY (call, sample)) WITHOUT ROWID;
        INSERT INTO totals (kind, samples, calls) VALUES ('spent', 5, 6), ('reserved', 3, 3);
        INSERT INTO period VALUES (NULL);
        INSERT INTO owners VALUES ('living', {os.getppid()}, ''), ('dead', {ended.pid}, '');
        INSERT INTO reservations (handle, owner, samples, calls) VALUES (1, 'living', 1, 1), (2, 'dead', 2, 2);
        INSERT INTO paid VALUES (X'61', 4);
        PRAGMA application_id = {0x44594E53};
        PRAGMA user_version = 1;
        PRAGMA journal_mode = WAL;
        """
    )
    connection.close()
    store = SQLiteStore(path)
    assert store.totals() == (Cost(samples=5, requests=6), Cost(samples=3, requests=3))
    assert store.paid(b"a") == {4}
    assert store.reconcile() == Cost(samples=2, requests=2)
    store.settle(1, Cost(samples=1))
    assert store.totals() == (Cost(samples=8, requests=8), Cost())
    store.close()
    assert [file.name for file in tmp_path.iterdir()] == ["budget.sqlite"]


@pytest.mark.parametrize("end", ["", "sys.exit(3)", "raise ValueError", "store.close()", "del store"])
def test_a_process_that_ends_well_leaves_the_file_alone(end, tmp_path):
    path = tmp_path / "budget.sqlite"
    process = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(FORKER) + f"spend(store)\n{end}", str(path)], capture_output=True
    )
    assert process.returncode == {"sys.exit(3)": 3, "raise ValueError": 1}.get(end, 0)
    assert [file.name for file in tmp_path.iterdir()] == ["budget.sqlite"]


def test_files_of_killed_owners_that_left_nothing_do_not_pile_up(tmp_path):
    path = tmp_path / "budget.sqlite"
    for _ in range(3):
        process = forker("spend(store)\nos.kill(os.getpid(), 9)", path)
        assert process.wait() == -signal.SIGKILL
        assert len(list(tmp_path.glob("*-owner-*"))) == 1
    store = SQLiteStore(path)
    assert store.totals() == (Cost(samples=3), Cost())
    store.close()
    assert [file.name for file in tmp_path.iterdir()] == ["budget.sqlite"]


def test_a_child_is_an_owner_of_its_own(tmp_path):
    path = tmp_path / "budget.sqlite"
    process = forker(
        """
        mine = store.reserve(Cost(samples=1), {})
        child = os.fork()
        if not child:
            store.reserve(Cost(samples=2), {})
            print(store.reconcile().samples)  # the parent lives
            os.kill(os.getpid(), 9)
        os.waitpid(child, 0)
        print(store.reconcile().samples)
        store.settle(mine, Cost(samples=1))
        print(store.totals() == (Cost(samples=3), Cost()))
        """,
        path,
    )
    assert process.communicate()[0].split() == ["0", "2", "True"]
    assert [file.name for file in tmp_path.iterdir()] == ["budget.sqlite"]


def test_a_parent_that_closes_its_store_after_a_fork_leaves_nothing(tmp_path):
    code = """
        if not os.fork():
            store.close()  # it has opened nothing
            os._exit(0)
        os.wait()
        store.close()
        os.kill(os.getpid(), 9)
    """
    assert forker(code, tmp_path / "budget.sqlite").wait() == -signal.SIGKILL
    assert [file.name for file in tmp_path.iterdir()] == ["budget.sqlite"]


def test_a_child_does_not_keep_its_dead_parent_alive(tmp_path):
    path = tmp_path / "budget.sqlite"
    process = subprocess.Popen(
        [
            sys.executable,
            "-u",
            "-c",
            textwrap.dedent(FORKER)
            + textwrap.dedent(
                """
                store.reserve(Cost(samples=1), {})
                child = os.fork()
                if child:
                    os.kill(os.getpid(), 9)
                spend(store)
                print("spent")
                sys.stdin.read()
                """
            ),
            str(path),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert line(process) == "spent"
    assert process.wait() == -signal.SIGKILL  # the parent; its child reads on
    store = SQLiteStore(path)
    assert store.reconcile() == Cost(samples=1)
    assert store.totals() == (Cost(samples=2), Cost())
    store.close()
    process.stdin.close()
    assert process.stdout.read() == ""  # the child has ended


# ---- connections

VISITOR = "spend(store); store.close()"


def test_two_stores_of_one_process_lose_nothing_when_another_comes_and_goes(tmp_path):
    # To open the file and close it would release SQLite's locks, and whoever came next would remove the log.
    path = tmp_path / "budget.sqlite"
    stores = [SQLiteStore(path) for _ in range(2)]
    for spent in (3, 6, 9):
        for store in stores:
            store.settle(store.reserve(Cost(samples=1), {}), Cost(samples=1))
        assert forker(VISITOR, path).wait() == 0
        assert [store.totals()[0].samples for store in stores] == [spent, spent]
    for store in stores:
        store.close()


def test_a_child_and_its_parent_lose_nothing_when_another_comes_and_goes(tmp_path):
    path = tmp_path / "budget.sqlite"
    process = forker(
        f"""
        import subprocess
        visitor = {textwrap.dedent(FORKER) + VISITOR!r}
        for _ in range(3):
            spend(store)
            child = os.fork()
            if not child:
                for _ in range(3):
                    spend(store)
                    subprocess.run([sys.executable, "-c", visitor, sys.argv[1]], check=True)
                os._exit(store.totals()[0].samples)
            print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), store.totals()[0].samples)
        """,
        path,
    )
    assert process.communicate()[0].split() == ["7", "7", "14", "14", "21", "21"]


def test_a_fork_waits_for_no_thread_and_breaks_none(tmp_path):
    process = forker(
        """
        import threading
        ended = threading.Event()
        def work():
            while not ended.is_set():
                spend(store)
        threads = [threading.Thread(target=work) for _ in range(3)]
        for thread in threads:
            thread.start()
        def fork():
            for _ in range(10):
                child = os.fork()
                if not child:
                    spend(store)
                    os._exit(0)
                assert os.waitpid(child, 0)[1] == 0
        forking = [threading.Thread(target=fork) for _ in range(2)]
        for thread in forking:
            thread.start()
        for thread in forking:
            thread.join()
        ended.set()
        for thread in threads:
            thread.join()
        print(store.reconcile().samples, store.totals()[1].samples, store.totals()[0].samples >= 20)
        """,
        tmp_path / "budget.sqlite",
    )
    assert process.communicate(timeout=60)[0].split() == ["0", "0", "True"]


def test_a_relative_path_stays_where_it_was(tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    store = SQLiteStore("budget.sqlite")
    store.settle(store.reserve(Cost(samples=1), {}), Cost(samples=1))
    store.close()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert store.totals()[0] == Cost(samples=1)  # a closed store opens its file again
    store.close()
    assert list(Path().iterdir()) == []


def test_a_budget_that_was_deleted_is_not_begun_anew(tmp_path):
    store = SQLiteStore(tmp_path / "budget.sqlite")
    handle = store.reserve(Cost(samples=1), {})
    store.close()
    remove_budget(tmp_path / "budget.sqlite")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(StorageError, match="cannot be used to keep a budget in: unable to open"):
        store.totals()
    with pytest.raises(StorageError, match="unable to open"):
        store.settle(handle, Cost(samples=1))
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_settled_is_said_and_stays_reserved(tmp_path):
    store = SQLiteStore(tmp_path / "budget.sqlite")
    handle = store.reserve(Cost(samples=1), {})
    with contextlib.closing(sqlite3.connect(tmp_path / "budget.sqlite")) as connection:
        connection.execute("ALTER TABLE paid RENAME TO gone")
        with pytest.raises(StorageError, match="cannot be read or written: no such table"):
            store.settle(handle, Cost(samples=1), (b"call", 1))
        assert store.totals() == (Cost(), Cost(samples=1))
        connection.execute("ALTER TABLE gone RENAME TO paid")
    store.settle(handle, Cost(samples=1), (b"call", 1))
    assert store.totals() == (Cost(samples=1), Cost())
    store.close()


# ---- files that are not budgets


def untouched(path: Path) -> bytes:
    before = path.read_bytes()
    with pytest.raises(StorageError, match="was left as it is"):
        BudgetPool(samples=5, path=path)
    assert path.read_bytes() == before
    return before


def test_a_foreign_file_is_refused_and_left_alone(tmp_path):
    text = tmp_path / "notes.txt"
    text.write_text("not a budget, and dear to somebody")
    untouched(text)
    database = tmp_path / "other.sqlite"
    with sqlite3.connect(database) as connection:
        connection.execute("CREATE TABLE totals (kind TEXT)")
    untouched(database)


def test_a_budget_of_another_version_is_refused_and_left_alone(tmp_path):
    path = tmp_path / "budget.sqlite"
    SQLiteStore(path).close()
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    untouched(path)


@pytest.mark.parametrize("place", [100, 4096, 8192])
def test_a_damaged_budget_is_refused_and_left_alone(place, tmp_path):
    path = tmp_path / "budget.sqlite"
    SQLiteStore(path).close()
    content = bytearray(path.read_bytes())
    content[place : place + 200] = b"\xff" * 200
    path.write_bytes(bytes(content))
    untouched(path)


def test_a_truncated_budget_is_refused(tmp_path):
    path = tmp_path / "budget.sqlite"
    SQLiteStore(path).close()
    path.write_bytes(path.read_bytes()[:5000])
    untouched(path)


def test_a_folder_is_no_file(tmp_path):
    with pytest.raises(StorageError, match="cannot be used"):
        BudgetPool(samples=5, path=tmp_path)
    with pytest.raises(StorageError, match="cannot be used to keep a budget in: .* Make its folder, or give another"):
        BudgetPool(samples=5, path=tmp_path / "nowhere" / "budget.sqlite")


def test_a_read_only_file_system_is_said_and_forgotten_once_it_can_be_written_to(tmp_path):
    unshare = ["unshare", "-m"] if os.geteuid() == 0 else ["unshare", "-Urm"]
    mount = ["mount", "-t", "tmpfs", "none", str(tmp_path)]
    if shutil.which("unshare") is None or subprocess.run([*unshare, *mount], capture_output=True).returncode:
        pytest.skip("nothing can be mounted here")
    code = """
        import subprocess, sys
        from dynscale_dspy import BudgetPool, StorageError
        folder = sys.argv[1]
        path = folder + "/budget.sqlite"
        def mount(*how):
            subprocess.run(["mount", *how, folder], check=True)
        def tried(act):
            try:
                return act()
            except StorageError as error:
                return error
        mount("-t", "tmpfs", "none")
        pool = BudgetPool(samples=5, path=path)
        pool.store.close()
        mount("-o", "remount,ro")
        print(tried(lambda: BudgetPool(samples=5, path=path)))
        print(tried(lambda: BudgetPool(samples=5, path=folder + "/new.sqlite")))
        print(tried(lambda: pool.admission.open(["independent"])))
        mount("-o", "remount,rw")
        print(pool.admission.open(["independent"]) is not None, BudgetPool(samples=5, path=path).available("samples"))
    """
    process = subprocess.Popen(
        [*unshare, sys.executable, "-c", textwrap.dedent(code), str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    said = process.communicate()[0].splitlines()
    assert len(said) == 4 and said[-1] == "True 4"
    assert all(text.endswith("Make the file and its folder writable, or give another path") for text in said[:3])


def test_an_empty_file_becomes_a_budget(tmp_path):
    path = tmp_path / "budget.sqlite"
    path.touch()
    assert BudgetPool(samples=5, path=path).available("samples") == 5


# ---- a run taken up again


def answers(path: Path, fake: FakeServer, samples: int) -> tuple[list[str], Cost]:
    pool = BudgetPool(samples=samples, path=path, policy=Uniform())
    qa = DynScaling(dspy.Predict("question -> answer"), budget=pool)
    with dspy.context(lm=fake.lm(cache=True)):
        predictions = qa.batch([{"question": q.text} for q in BANK], num_threads=4, disable_progress_bar=True)
    return [prediction.answer for prediction in predictions], pool.statistics().spent


@pytest.mark.skipif(not HAS_ENGINES, reason="before DSPy 3.4 its cache cannot be asked without making the call")
def test_the_same_batch_again_is_paid_already(tmp_path, server):
    fake, path = server(BANK), tmp_path / "budget.sqlite"
    first = answers(path, fake, 36)
    assert fake.statistics().requests == 36 == first[1].samples
    assert answers(path, fake, 36) == first  # although nothing is left
    assert fake.statistics().requests == 36
    larger, spent = answers(path, fake, 48)
    assert fake.statistics().requests == 48 == spent.samples
    assert len(larger) == 12


def test_without_the_cache_the_same_batch_is_paid_again_as_far_as_there_is_budget(tmp_path, server):
    fake, path = server(BANK), tmp_path / "budget.sqlite"
    answers(path, fake, 36)
    dspy.configure_cache(enable_disk_cache=False, enable_memory_cache=True)
    again, spent = answers(path, fake, 50)
    assert fake.statistics().requests == spent.samples == 50
    assert len(again) == 12


RERUN = """
    import sys
    import dspy
    from dynscale_dspy import BudgetPool, DynScaling, Uniform
    path, cache, url, samples, *texts = sys.argv[1:]
    dspy.configure_cache(disk_cache_dir=cache, enable_memory_cache=True)
    lm = dspy.LM("openai/fake", api_base=url, api_key="local", num_retries=0, temperature=1.0)
    pool = BudgetPool(samples=int(samples), path=path, policy=Uniform())
    qa = DynScaling(dspy.Predict("question -> answer"), budget=pool)
    print("begun")
    with dspy.context(lm=lm):
        predictions = qa.batch([{"question": text} for text in texts], num_threads=4, disable_progress_bar=True)
    print(" ".join(prediction.answer for prediction in predictions))
"""


def test_after_kill_nine_a_rerun_pays_only_what_was_in_flight(tmp_path, server):
    fake = server(BANK, median_latency=0.01)
    path, cache = tmp_path / "budget.sqlite", tmp_path / "cache"
    arguments = (path, cache, fake.url, 60, *(question.text for question in BANK))
    process = run(RERUN, *arguments)
    assert line(process) == "begun"
    fake.wait_until(lambda now: now.requests >= 25, timeout=60)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    killed = fake.wait_until(lambda now: now.in_flight == 0)
    store = SQLiteStore(path)
    spent, reserved = store.totals()
    assert spent.samples + reserved.samples >= killed.requests > 0
    store.close()
    process = run(RERUN, *arguments)
    assert line(process) == "begun"
    assert len(line(process).split()) == 12
    process.communicate()
    again = fake.statistics()
    pool = BudgetPool(samples=60, path=path)
    in_flight = reserved.samples
    # Never over, and nothing paid for twice but what was in flight.
    assert again.requests <= 60
    assert pool.statistics().spent.samples + pool.reconcile().samples == 60
    assert 60 - in_flight <= again.requests


@pytest.mark.skipif(not HAS_ENGINES, reason="before DSPy 3.4 its cache cannot be asked without making the call")
def test_processes_at_once_on_one_cache_pay_each_request_once(tmp_path, server):
    fake = server(BANK, median_latency=0.02)
    path, cache = tmp_path / "budget.sqlite", tmp_path / "cache"
    arguments = (path, cache, fake.url, 60, *(question.text for question in BANK))
    at_once = [run(RERUN, *arguments) for _ in range(3)]
    for process in at_once:
        assert line(process) == "begun"
    for process in at_once:
        assert len(line(process).split()) == 12
        process.communicate()
    made, pool = fake.statistics(), BudgetPool(samples=60, path=path)
    spent = pool.statistics().spent
    # Which of them asks first is up to the instant; what another has asked meanwhile is in the cache.
    assert made.requests == spent.requests - spent.cached_requests <= 60
    assert pool.statistics().reserved == Cost()
    # What all of them have paid is there for a later run.
    later = run(RERUN, *arguments)
    assert line(later) == "begun"
    assert len(line(later).split()) == 12
    later.communicate()
    assert fake.statistics().requests == made.requests


def test_the_file_holds_no_secret(tmp_path):
    model, path = ScriptedModel(cycle("a secret answer")), tmp_path / "budget.sqlite"
    pool = BudgetPool(samples=3, path=path)
    with dspy.context(lm=model.lm()):
        DynScaling(dspy.Predict("question -> answer"), budget=pool)(question="a secret question")
    content = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    assert b"secret" not in content and b"question" not in content


def test_an_interrupt_as_a_transaction_begins_keeps_no_other_thread_waiting(tmp_path, monkeypatch):
    """While its error is on its way out, and whenever that goes."""
    store = SQLiteStore(tmp_path / "budget.sqlite")
    assert store.reserve(Cost(samples=1), {}) is not None
    enter = sqlite_store._Transaction.__enter__

    def interrupted(self):
        enter(self)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(sqlite_store._Transaction, "__enter__", interrupted)
        with pytest.raises(KeyboardInterrupt) as caught:
            store.reserve(Cost(samples=1), {})
    with ThreadPoolExecutor(1) as executor:
        assert executor.submit(store.reserve, Cost(samples=1), {}).result(timeout=20) is not None
    assert caught.value is not None  # it was kept all the time
    assert store.totals()[1].samples == 2
