"""Which way a request for several choices goes."""

import importlib
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import dspy
import pytest

from dynscale_dspy.execution import choices_route
from dynscale_dspy.execution.choices_route import (
    Library,
    Turn,
    can_borrow,
    is_borrowed,
    makes_one_request,
    through_litellm,
)
from dynscale_dspy.testing import FakeServer, questions
from tests.support import needs_engines

pytestmark = needs_engines


@pytest.mark.parametrize(
    ("model", "options", "able"),
    [
        ("openai/gpt-4o-mini", {}, True),
        ("openai/anything", {"api_base": "http://127.0.0.1:1/v1"}, True),
        ("hosted_vllm/anything", {"api_base": "http://127.0.0.1:1/v1"}, True),
        ("anthropic/claude-sonnet-4-5", {}, False),
        ("openai/gpt-4o-mini", {"engine": "lm15"}, False),
        ("openai/gpt-4o-mini", {"engine": "litellm"}, False),  # it makes one request itself
        ("openai/gpt-4o-mini", {"model_type": "responses"}, True),
    ],
)
def test_who_borrows_litellm(model: str, options: dict[str, Any], able: bool) -> None:
    lm = dspy.LM(model, api_key="local", **options)
    assert can_borrow(lm, lm.kwargs, wait=True) is able


def test_engines_that_make_one_request_themselves() -> None:
    assert makes_one_request(dspy.LM("openai/fake", api_key="local", engine="litellm"), {})
    assert not makes_one_request(dspy.LM("openai/fake", api_key="local"), {})
    assert makes_one_request(dspy.LM("nobody/knows", api_key="local"), {})  # the native engine does not know it
    assert not makes_one_request(object(), {})


def test_what_decides_is_looked_at_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    lm = dspy.LM("openai/fake", api_key="local")
    assert is_borrowed(lm, {})
    monkeypatch.setenv("OPENAI_API_BASE", "http://127.0.0.1:1/v1")
    assert makes_one_request(lm, {})  # DSPy hands a gateway's requests to LiteLLM
    monkeypatch.delenv("OPENAI_API_BASE")
    assert is_borrowed(lm, {})
    assert makes_one_request(lm, {"headers": {"a": "b"}})  # and what the native engine cannot send


def test_a_language_model_of_another_class_is_left_alone() -> None:
    class Own(dspy.LM):
        pass

    lm = Own("openai/fake", api_key="local")
    assert not is_borrowed(lm, {}) and not can_borrow(lm, {}, wait=True)


def test_what_goes_through_litellm_shares_all_but_the_engine() -> None:
    lm = dspy.LM("openai/fake", api_key="local", temperature=0.5, callbacks=[])
    other = through_litellm(lm)
    assert (other._engine_spec, lm._engine_spec) == ("litellm", "auto")
    assert other.history is lm.history and other.callbacks is lm.callbacks and other.kwargs is lm.kwargs


def test_while_litellm_is_not_there_samples_ask_for_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    library = Library("never.imported")
    monkeypatch.setattr(choices_route, "LITELLM", library)
    lm = dspy.LM("openai/fake", api_key="local")
    assert not can_borrow(lm, {}, wait=False)
    assert not can_borrow(lm, {}, wait=True)  # it is not installed


def test_calls_wait_in_turn_for_an_import_and_those_made_without_are_made_so_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "awaited_library.py").write_text("import its_gate\nits_gate.open.wait(60)\n")
    (tmp_path / "its_gate.py").write_text("import threading\nopen = threading.Event()\n")
    monkeypatch.syspath_prepend(tmp_path)
    library = Library("awaited_library")
    monkeypatch.setattr(choices_route, "LITELLM", library)
    monkeypatch.setattr(choices_route, "_made_without", set())
    monkeypatch.setattr(choices_route, "_takes_n", lambda model: True)
    lm = dspy.LM("openai/fake", api_key="local")
    first, second, third = (Turn(call, lambda: True) for call in range(3))
    beside, by_deadline = Turn(3, lambda: False), Turn(4, lambda: False)

    assert not can_borrow(lm, {}, wait=False, turn=first)  # it begins the import
    assert not can_borrow(lm, {}, wait=False, turn=beside)
    assert not can_borrow(lm, {}, wait=False, turn=by_deadline)
    assert not library.is_loaded
    importlib.import_module("its_gate").open.set()
    assert can_borrow(lm, {}, wait=False, turn=second)
    for turn, able in ((first, False), (beside, False), (second, True), (third, True)):
        assert can_borrow(lm, {}, wait=False, turn=turn) is able
    assert can_borrow(lm, {}, wait=True, turn=first)  # a known set waits, and so asks alike each time
    assert can_borrow(lm, {}, wait=False)
    without = dspy.LM("openai/fake", api_key="local", cache=False)
    assert can_borrow(without, {}, wait=False, turn=first)  # nothing of it is kept


AGAIN = """
import asyncio, sys
import dspy
from dynscale_dspy import DynScaling
from dynscale_dspy.execution.choices_route import LITELLM
from dynscale_dspy.testing import questions

url, folder = sys.argv[1:]
dspy.configure_cache(disk_cache_dir=folder)
bank = questions(12, seed=3)

def one_by_one():
    qa = DynScaling(dspy.ChainOfThought("question -> answer"), budget=8)
    return [qa(question=question.text).answer for question in bank]

def one_task():
    async def main():
        qa = DynScaling(dspy.ChainOfThought("question -> answer"), budget=8)
        return [(await qa.acall(question=question.text)).answer for question in bank]
    return asyncio.run(main())

def one_cell():
    async def main():  # as in a notebook, whose kernel has other tasks
        other = asyncio.ensure_future(asyncio.sleep(600))
        await asyncio.sleep(0)
        answers = one_by_one()
        other.cancel()
        return answers
    return asyncio.run(main())

with dspy.context(lm=dspy.LM("openai/fake", api_base=url, api_key="local", max_tokens=60)):
    answers = [drive() for drive in (one_cell, one_by_one, one_task, one_task)]
print(answers[0] == answers[1], answers[2] == answers[3], LITELLM.is_loaded, answers)
"""


def test_no_run_asks_anew_however_long_the_import_takes_in_it(tmp_path: Path) -> None:
    """Twice in each of two processes, which begin without LiteLLM."""
    with FakeServer(questions(12, seed=3), median_latency=0) as server:
        outputs, asked = [], []
        for _ in range(2):
            command = [sys.executable, "-c", AGAIN, server.url, str(tmp_path)]
            outputs.append(subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout)
            asked.append(server.statistics().requests)
        assert outputs[0].startswith("True True True") and outputs[0] == outputs[1]
        assert asked[0] == asked[1] > 0
        assert any(body.get("n", 1) > 1 for body in server.bodies)


INTERRUPTED = """
import signal, sys, threading
sys.path.insert(0, sys.argv[1])
from dynscale_dspy.execution.choices_route import Library
from its_open_gate import open as gate

signal.signal(signal.SIGINT, signal.default_int_handler)
library, here = Library("interrupted_library"), threading.get_ident()
threading.Timer(0.3, lambda: signal.pthread_kill(here, signal.SIGINT)).start()
try:
    print(library.wait())
except KeyboardInterrupt:
    print(library.has_begun, library.is_loaded)
threading.Timer(0.3, gate.set).start()
print(library.wait())
"""


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="no thread can be signalled here")
def test_an_interrupt_of_a_wait_leaves_the_import_under_way(tmp_path: Path) -> None:
    (tmp_path / "interrupted_library.py").write_text("import its_open_gate\nits_open_gate.open.wait(60)\n")
    (tmp_path / "its_open_gate.py").write_text("import threading\nopen = threading.Event()\n")
    command = [sys.executable, "-c", INTERRUPTED, str(tmp_path)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert run.stdout == "True False\nTrue\n", run.stderr[-2000:]


def test_the_import_is_begun_once_and_from_anywhere() -> None:
    library = Library("wsgiref.simple_server")
    threads = [threading.Thread(target=library.wait) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert library.is_loaded


BESIDE = """
import dspy
from dynscale_dspy import DynScaling
from dynscale_dspy.testing import FakeServer, questions

bank = questions(2)
with FakeServer(bank) as server:
    with dspy.context(lm=server.lm("auto")):
        DynScaling(dspy.Predict("question -> answer"), budget=4)(question=bank[0].text)
    with dspy.context(lm=server.lm("litellm")):  # while LiteLLM is being imported
        print(bool(dspy.Predict("question -> answer")(question=bank[1].text).answer))
"""


def test_a_plain_program_that_needs_litellm_meanwhile_waits_for_it() -> None:
    run = subprocess.run([sys.executable, "-c", BESIDE], capture_output=True, text=True, timeout=120)
    assert run.stdout == "True\n", run.stderr[-2000:]


PROGRAM = """
import os, sys, time
import dspy
from dynscale_dspy import DynScaling
from dynscale_dspy.execution.choices_route import LITELLM
from dynscale_dspy.testing import FakeServer, questions

bank = questions(2)
with FakeServer(bank) as server, dspy.context(lm=server.lm("auto")):
    qa = DynScaling(dspy.Predict("question -> answer"), budget=4)
    begun = time.perf_counter()
    qa(question=bank[0].text)
    print("loaded" if LITELLM.is_loaded else "not loaded")
    child = os.fork()
    if child == 0:
        import litellm  # would wait for ever for a thread that is not there
        os._exit(0 if litellm.completion else 1)
    print("child", os.waitpid(child, 0)[1])
    print(LITELLM.wait())
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_first_call_does_not_wait_for_the_import_and_a_child_forked_meanwhile_has_it() -> None:
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=120, env={**os.environ}, check=True
    )
    assert run.stdout.split("\n")[:3] == ["not loaded", "child 0", "True"]


WARMED = """
import sys
import dspy
from dynscale_dspy.execution.choices_route import LITELLM
from dynscale_dspy.testing import FakeServer, questions

bank = questions(1)
with FakeServer(bank) as server, dspy.context(lm=server.lm("litellm")):
    LITELLM.wait()
    before = set(sys.modules)
    dspy.Predict("question -> answer")(question=bank[0].text)
    print(len([name for name in set(sys.modules) - before if not name.startswith("dspy.")]))
"""


def test_what_litellm_imports_at_its_first_request_is_there_by_then() -> None:
    run = subprocess.run([sys.executable, "-c", WARMED], capture_output=True, text=True, timeout=120)
    assert int(run.stdout) < 40, run.stderr[-2000:]  # 160 without


def test_a_library_is_there_with_its_late_modules_of_which_some_may_be_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("slow_library", "its_late_module"):
        (tmp_path / f"{name}.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    library = Library("slow_library", late=("never_imported", "its_late_module"))
    assert not library.is_loaded
    assert library.wait() and "its_late_module" in sys.modules
