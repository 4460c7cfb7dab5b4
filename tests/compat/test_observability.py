"""Callbacks, usage, history, MLflow and streaming see one call with its samples inside."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dspy
import pytest
from dspy.streaming import StatusMessage, StatusMessageProvider
from dspy.utils.callback import BaseCallback
from packaging.version import Version

from dynscale_dspy import BudgetPool, DynScaling, Integrated, SamplingStatus, Uniform, explain, wrap
from tests.compat.matrix import WAYS
from tests.compat.rows import DSPY, Both, SyncOnly
from tests.support import ScriptedModel, cycle

QUESTIONS = [{"question": f"question {number}"} for number in range(3)]
SAMPLES = 3


def scaled(module: dspy.Module, samples: int = SAMPLES) -> DynScaling:
    return DynScaling(module, budget=BudgetPool(per_call=samples, policy=Uniform()))


class Tree(BaseCallback):
    """Every call, its parent, and how often it began and ended."""

    def __init__(self) -> None:
        self.names: dict[str, str] = {}
        self.parents: dict[str, str | None] = {}
        self.begun: Counter[str] = Counter()
        self.ended: Counter[str] = Counter()
        self.lock = threading.Lock()

    def begin(self, call_id: str, name: str) -> None:
        from dspy.utils.callback import ACTIVE_CALL_ID

        with self.lock:
            self.begun[call_id] += 1
            self.names[call_id] = name
            self.parents[call_id] = ACTIVE_CALL_ID.get()

    def end(self, call_id: str) -> None:
        with self.lock:
            self.ended[call_id] += 1

    def on_module_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        self.begin(call_id, type(instance).__name__)

    def on_module_end(self, call_id: str, outputs: Any, exception: Exception | None = None) -> None:
        self.end(call_id)

    def on_lm_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        self.begin(call_id, "LM")

    def on_lm_end(self, call_id: str, outputs: Any, exception: Exception | None = None) -> None:
        self.end(call_id)

    def on_adapter_format_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        self.begin(call_id, "format")

    def on_adapter_format_end(self, call_id: str, outputs: Any, exception: Exception | None = None) -> None:
        self.end(call_id)

    def on_evaluate_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        self.begin(call_id, "Evaluate")

    def on_evaluate_end(self, call_id: str, outputs: Any, exception: Exception | None = None) -> None:
        self.end(call_id)

    @property
    def edges(self) -> Counter[tuple[str | None, str]]:
        return Counter((self.names.get(self.parents[call] or ""), name) for call, name in self.names.items())


@pytest.mark.parametrize("way", WAYS)
def test_callbacks_fire_once_a_call_with_the_right_parents(way: str) -> None:
    tree = Tree()
    calls, samples = len(QUESTIONS), len(QUESTIONS) * SAMPLES
    with dspy.context(lm=ScriptedModel(cycle("A")).lm(), callbacks=[tree]):
        WAYS[way](scaled(dspy.ChainOfThought("question -> answer")), QUESTIONS)
    root = "Evaluate" if way == "`Evaluate`" else None
    parent = root if Version("3.3") <= DSPY else None  # before, DSPy's own threads lose it for plain programs as well
    expected = Counter(
        {
            (parent, "DynScaling"): calls,
            ("DynScaling", "ChainOfThought"): samples,
            ("ChainOfThought", "Predict"): samples,
            ("Predict", "format"): samples,
            ("Predict", "LM"): samples,
        }
    )
    if root:
        expected[None, root] = 1
    assert tree.edges == expected
    assert set(tree.begun.values()) == set(tree.ended.values()) == {1} and set(tree.begun) == set(tree.ended)


@pytest.mark.parametrize("way", ["sync", "async"])
def test_callbacks_in_programs_nested_and_without_async(way: str) -> None:
    tree = Tree()
    program = scaled(SyncOnly(scaled(dspy.Predict("question -> answer"), 2)), 2)
    with dspy.context(lm=ScriptedModel(cycle("A")).lm(), callbacks=[tree]):
        WAYS[way](program, QUESTIONS[:1])
    assert tree.edges[None, "DynScaling"] == 1
    assert tree.edges["DynScaling", "SyncOnly"] == 2
    assert tree.edges["SyncOnly", "DynScaling"] == 2
    assert tree.edges["DynScaling", "Predict"] == tree.edges["Predict", "LM"] == 4


def test_callbacks_of_the_module_itself() -> None:
    own, inner = Tree(), Tree()
    program = scaled(dspy.ChainOfThought("question -> answer", callbacks=[inner]))
    program.callbacks.append(own)
    with dspy.context(lm=ScriptedModel(cycle("A")).lm()):
        program(question="q")
        program.batch(QUESTIONS[:1], disable_progress_bar=True)
    assert Counter(own.names.values()) == {"DynScaling": 2}
    assert Counter(inner.names.values())["Predict"] == 2 * SAMPLES  # ChainOfThought hands them on


@pytest.mark.parametrize("way", ["sync", "async"])
@pytest.mark.parametrize("samples", [1, 3])
def test_callbacks_of_what_is_scaled_in_place(samples: int, way: str) -> None:
    tree = Tree()
    program = wrap(dspy.ChainOfThought("question -> answer"), BudgetPool(per_call=samples, policy=Uniform()))
    with dspy.context(lm=ScriptedModel(cycle("A")).lm(), callbacks=[tree]):
        WAYS[way](program, QUESTIONS[:1])
    # The only sample of a call is the call; of several each is one in it.
    inside = {("Predict", "Predict"): samples} if samples > 1 else {}
    expected = {(None, "ChainOfThought"): 1, ("ChainOfThought", "Predict"): 1, **inside}
    assert tree.edges == Counter({**expected, ("Predict", "format"): samples, ("Predict", "LM"): samples})
    assert set(tree.begun.values()) == set(tree.ended.values()) == {1}
    assert len(program.predict.history) == samples


def test_a_batch_that_breaks_off_ends_what_it_began() -> None:
    tree = Tree()
    with dspy.context(lm=ScriptedModel(lambda prompt, n: PermissionError("wrong key")).lm(), callbacks=[tree]):
        with pytest.raises(Exception, match="wrong key"):
            scaled(dspy.Predict("question -> answer")).batch(QUESTIONS, max_errors=1, disable_progress_bar=True)
    modules = [call for call, name in tree.names.items() if name == "DynScaling"]
    assert len(modules) == len(QUESTIONS) and all(tree.ended[call] == 1 for call in modules)


@pytest.mark.parametrize("way", WAYS)
def test_usage_counts_every_sample_once(way: str) -> None:
    lm = ScriptedModel(cycle("A")).lm()
    with dspy.context(lm=lm, track_usage=True):
        predictions = WAYS[way](scaled(Both(dspy.ChainOfThought("question -> answer"))), QUESTIONS)
    for prediction in predictions:
        assert prediction.get_lm_usage()["scripted/model"]["total_tokens"] == 10 * SAMPLES
        assert explain(prediction).cost.tokens == 10 * SAMPLES


def test_usage_rolls_up_through_nested_wrappers_and_trackers() -> None:
    program = scaled(Both(scaled(dspy.Predict("question -> answer"), 2)), 2)
    with dspy.context(lm=ScriptedModel(cycle("A")).lm(), track_usage=True):
        assert program(question="q").get_lm_usage()["scripted/model"]["total_tokens"] == 40
    with dspy.context(lm=ScriptedModel(cycle("A")).lm()), dspy.track_usage() as tracker:
        program(question="q")
        program.batch(QUESTIONS[:1], disable_progress_bar=True)
    assert tracker.get_total_tokens()["scripted/model"]["total_tokens"] == 80


@pytest.mark.parametrize("way", WAYS)
def test_history_has_every_request_once(way: str) -> None:
    lm = ScriptedModel(cycle("A")).lm()
    program = scaled(dspy.ChainOfThought("question -> answer"))
    with dspy.context(lm=lm):
        WAYS[way](program, QUESTIONS)
    requests = len(QUESTIONS) * SAMPLES
    assert len(lm.history) == len(program.history) == len(program.module.history) == requests
    assert len({entry["uuid"] for entry in lm.history}) == requests
    assert len(program.module.predict.history) == requests


def test_inspect_history_shows_the_samples(capsys: Any) -> None:
    lm = ScriptedModel(cycle("A", "B", "B")).lm()
    program = scaled(dspy.Predict("question -> answer"))
    with dspy.context(lm=lm):
        program(question="How many?")
        for inspect in (program.inspect_history, lm.inspect_history, dspy.inspect_history):
            inspect(n=SAMPLES)
            printed = capsys.readouterr().out
            assert printed.count("How many?") == SAMPLES
            assert sorted(printed.count(f"\n{answer}\n") for answer in "AB") == [1, 2]


# ---- MLflow


@pytest.fixture(scope="module")
def traces(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[list[dict[str, Any]]]]:
    script = Path(__file__).with_name("mlflow_traces.py")
    root = script.parents[2]
    run = subprocess.run(
        [sys.executable, "-m", "tests.compat.mlflow_traces", str(tmp_path_factory.mktemp("mlflow"))],
        capture_output=True,
        text=True,
        cwd=root,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    return json.loads(run.stdout[run.stdout.index('{"sync"') :])


@pytest.mark.parametrize(("way", "calls"), [("sync", 1), ("async", 1), ("batch", 2), ("Evaluate", 2)])
def test_mlflow_shows_samples_nested_under_their_call(way: str, calls: int, traces: Any) -> None:
    assert len(traces[way]) == calls
    for spans in traces[way]:
        by_id = {span["id"]: span for span in spans}
        [call] = [span for span in spans if span["parent"] is None]
        assert call["name"] == "DynScaling.forward"
        assert {name: call["scaling"][name] for name in ("samples", "conditioned", "requests")} == {
            "samples": 3,
            "conditioned": 1,
            "requests": 3,
        }
        assert 0 < call["scaling"]["confidence"] <= 1
        samples = [span for span in spans if span["parent"] == call["id"]]
        assert [span["name"] for span in samples] == ["ChainOfThought.forward"] * 3
        marks = sorted((span["scaling"] for span in samples), key=lambda mark: mark["sample"])
        assert [mark["sample"] for mark in marks] == [0, 1, 2]
        assert [mark["conditioned"] for mark in marks] == [False, False, True]
        assert [mark["round"] for mark in marks] == sorted(mark["round"] for mark in marks)
        # One attempt for each distinct answer; which answers the first two have is up to the threads.
        shown = marks[2]["shown"]
        assert set(shown) <= {0, 1} and len(shown) == len({mark["vote"] for mark in marks[:2]})
        assert Counter(mark["vote"] for mark in marks).most_common(1)[0] == (
            call["scaling"]["vote"],
            call["scaling"]["votes"],
        )
        for span in spans:
            inside = span["name"] not in ("DynScaling.forward", "ChainOfThought.forward")
            assert bool(span["scaling"]) != inside
            assert span["parent"] is None or span["parent"] in by_id


def test_mlflow_shows_predictors_scaled_in_place(traces: Any) -> None:
    [spans] = traces["wrap"]
    [call] = [span for span in spans if "samples" in span["scaling"]]
    samples = [span for span in spans if span["parent"] == call["id"]]
    assert [span["name"] for span in [call, *samples]] == ["Predict.forward"] * 4
    assert sorted(span["scaling"]["sample"] for span in samples) == [0, 1, 2]


# ---- streaming


def streamed(program: dspy.Module, model: ScriptedModel, **options: Any) -> list[Any]:
    async def main() -> list[Any]:
        with dspy.context(lm=model.lm()):
            return [chunk async for chunk in dspy.streamify(program, **options)(question="q")]

    return asyncio.run(main())


def rounds(module: dspy.Module) -> DynScaling:
    sampling = Integrated(independent=2, width=2, when="always")
    return DynScaling(module, budget=BudgetPool(per_call=4, policy=Uniform(first=2)), sampling=sampling)


PROGRAMS: dict[str, Callable[[], dspy.Module]] = {
    "Predict": lambda: rounds(dspy.Predict("question -> answer")),
    "without async": lambda: rounds(SyncOnly(dspy.Predict("question -> answer"))),
    "inside": lambda: Both(rounds(dspy.Predict("question -> answer"))),
    "wrap": lambda: wrap(
        Both(dspy.Predict("question -> answer")),
        budget=BudgetPool(per_call=4, policy=Uniform(first=2)),
        sampling=Integrated(independent=2, width=2, when="always"),
    ),
}


@pytest.mark.parametrize("awaited", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize("make", PROGRAMS.values(), ids=PROGRAMS)
def test_a_stream_is_the_winner(make: Callable[[], dspy.Module], awaited: bool) -> None:
    chunks = streamed(make(), ScriptedModel(cycle("A", "B", "B", "B")), is_async_program=awaited)
    assert [type(chunk) for chunk in chunks] == [dspy.Prediction]
    assert chunks[0].answer == "B"
    listeners = [dspy.streaming.StreamListener(signature_field_name="answer")]
    program = make()
    chunks = streamed(program, ScriptedModel(cycle("B")), is_async_program=awaited, stream_listeners=listeners)
    heard, prediction = chunks
    assert (heard.chunk, heard.signature_field_name, heard.is_last_chunk) == ("B", "answer", True)
    assert prediction.answer == "B"


@pytest.mark.parametrize("awaited", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize("make", PROGRAMS.values(), ids=PROGRAMS)
def test_status_messages_tell_how_the_call_stands(make: Callable[[], dspy.Module], awaited: bool) -> None:
    chunks = streamed(
        make(),
        ScriptedModel(cycle("A", "B", "B", "B")),
        is_async_program=awaited,
        status_message_provider=SamplingStatus(),
    )
    *messages, prediction = chunks
    assert all(type(message) is StatusMessage for message in messages)
    assert [message.message for message in messages] == [
        "2 samples, 2 answers, 50% agree",
        "4 samples, 2 answers, 75% agree",
    ]
    assert prediction.answer == "B"


def test_status_messages_in_other_words_and_only_where_asked_for() -> None:
    class Mine(SamplingStatus):
        def sampling_status_message(self, explanation: Any) -> str | None:
            return f"{explanation.votes[0].answer} leads" if len(explanation.samples) > 2 else None

        def module_end_status_message(self, outputs: Any) -> str | None:
            return "done"

    class Plain(StatusMessageProvider):
        """Knows nothing of samples."""

    def messages(provider: Any) -> list[str]:
        chunks = streamed(
            PROGRAMS["Predict"](), ScriptedModel(cycle("A", "B", "B", "B")), status_message_provider=provider
        )
        return [chunk.message for chunk in chunks if isinstance(chunk, StatusMessage)]

    assert messages(Mine()) == ["B leads", "done"]
    assert messages(Plain()) == []


def test_a_status_that_cannot_be_sent_costs_no_answer() -> None:
    class Elsewhere(dspy.Module):
        """Calls the program from a thread that is not the stream's."""

        def __init__(self) -> None:
            super().__init__()
            self.qa = PROGRAMS["Predict"]()

        def forward(self, question: str) -> dspy.Prediction:
            example = dspy.Example(question=question).with_inputs("question")
            return dspy.Parallel(num_threads=1, disable_progress_bar=True)([(self.qa, example)])[0]

    chunks = streamed(Elsewhere(), ScriptedModel(cycle("A", "B", "B", "B")), status_message_provider=SamplingStatus())
    assert chunks[-1].answer == "B"
