"""What a user of ``dspy.streamify`` hears of a call: the winner, or its only sample's own stream; how tools get on."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Any, Literal

import anyio
import dspy
import pytest
from dspy.streaming import StatusMessage, StatusMessageProvider, StreamListener, StreamResponse

from dynscale_dspy import BudgetPool, DynScaling, Parallel, Uniform, wrap
from dynscale_dspy.execution.user_stream import UserStream, winning_chunks
from dynscale_dspy.testing import FakeQuestion, FakeServer
from tests.support import HAS_ENGINES, ScriptedModel, cycle

QUESTION = FakeQuestion("2 + 2?", {"the answer is 4": 1.0}, "the answer is 4")
WAYS = {
    "a thread": {},
    "a task": {"is_async_program": True},
    "a sync stream": {"async_streaming": False},
    "a sync stream of a task": {"is_async_program": True, "async_streaming": False},
}
ways = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer([QUESTION], median_latency=0.0) as made:
        yield made


def heard(program: Any, *fields: str | StreamListener, question: str = QUESTION.text, **options: Any) -> list[Any]:
    """All that a stream of a program gives."""
    listeners = [StreamListener(signature_field_name=field) if isinstance(field, str) else field for field in fields]
    stream = dspy.streamify(program, stream_listeners=listeners, **options)
    if options.get("async_streaming") is False:
        return list(stream(question=question))  # type: ignore[arg-type]

    async def main() -> list[Any]:
        return [item async for item in stream(question=question)]  # type: ignore[union-attr]

    return asyncio.run(main())


def words(items: list[Any]) -> dict[str, list[str]]:
    """The chunks of each field."""
    told: dict[str, list[str]] = {}
    for item in items:
        if isinstance(item, StreamResponse):
            told.setdefault(item.signature_field_name, []).append(item.chunk)
    return told


def whole(chunks: list[str]) -> str:
    """A field from the chunks that DSPy streams; before 3.4 they hold the empty lines after it too."""
    text = "".join(chunks)
    return text if HAS_ENGINES else text.strip()


def predictions(items: list[Any]) -> list[str]:
    return [item.answer for item in items if isinstance(item, dspy.Prediction)]


def question_to_answer() -> dspy.Module:
    return dspy.ChainOfThought("question -> answer")


MAKERS = {"DynScaling": DynScaling, "wrap": wrap}
makers = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)


@ways
@makers
@pytest.mark.parametrize("final", [True, False])
def test_listeners_hear_the_winner(server: FakeServer, make: Any, way: dict[str, Any], final: bool) -> None:
    with dspy.context(lm=server.lm()):
        items = heard(
            make(question_to_answer(), budget=3),
            "answer",
            "reasoning",
            include_final_prediction_in_output_stream=final,
            **way,
        )
    told = words(items)
    assert told["answer"] == ["the answer is 4"] and len(told["reasoning"]) == 1
    assert all(item.is_last_chunk and item.predict_name == "predict" for item in items[:2])
    assert predictions(items) == ["the answer is 4"] * final
    assert server.statistics().streamed == 0 and server.statistics().samples > 1


@ways
@makers
@pytest.mark.parametrize("engine", ["auto", "litellm"])
def test_one_sample_streams_as_the_plain_program_does(
    server: FakeServer, make: Any, way: dict[str, Any], engine: str
) -> None:
    with dspy.context(lm=server.lm(engine=engine, cache=False)):
        pool = BudgetPool(tokens=100_000, max_per_call=1)
        plain = heard(question_to_answer(), "answer", "reasoning", include_final_prediction_in_output_stream=False)
        items = heard(
            make(question_to_answer(), budget=pool),
            "answer",
            "reasoning",
            include_final_prediction_in_output_stream=False,
            **way,
        )
    told = words(items)
    assert "".join(told["answer"]) == "".join(words(plain)["answer"])
    assert whole(told["answer"]) == "the answer is 4"
    assert len(told["answer"]) > 1 and len(told["reasoning"]) > 1 and not predictions(items)
    now = server.statistics()
    assert (now.streamed, now.requests) == (2, 2)
    assert pool.statistics().spent.tokens == (now.prompt_tokens + now.completion_tokens) // 2  # as reported
    assert not pool.statistics().distrusted


def test_one_sample_that_cannot_stream_where_it_runs_is_heard_at_the_end(server: FakeServer) -> None:
    """With a deadline a sample runs in a thread that DSPy has not started, and from which it could not stream."""
    with dspy.context(lm=server.lm()):
        items = heard(DynScaling(question_to_answer(), BudgetPool(samples=9, max_per_call=1, deadline=60)), "answer")
    assert words(items) == {"answer": ["the answer is 4"]} and predictions(items) == ["the answer is 4"]


@ways
@pytest.mark.parametrize("budget", [1, 3])
def test_nothing_is_heard_of_an_answer_that_is_not_handed_out(budget: int, way: dict[str, Any]) -> None:
    program = DynScaling(dspy.Predict("question -> answer"), budget=budget, min_confidence=0.99)
    with dspy.context(lm=ScriptedModel(cycle("A", "B", "C")).lm()):
        items = heard(program, "answer", question="q", **way)
    assert not words(items) and predictions(items) == [None]


@ways
def test_nothing_is_heard_of_samples_that_lose(way: dict[str, Any]) -> None:
    pool = BudgetPool(per_call=4, policy=Uniform(first=4))
    program = DynScaling(dspy.Predict("question -> answer"), pool, sampling=Parallel())
    with dspy.context(lm=ScriptedModel(cycle("A", "B", "B", "B")).lm()):
        assert words(heard(program, "answer", question="q", **way)) == {"answer": ["B"]}


@makers
def test_a_predictor_is_heard_where_no_trace_is_kept(server: FakeServer, make: Any) -> None:
    with dspy.context(lm=server.lm(), max_trace_size=0):
        assert words(heard(make(question_to_answer(), budget=3), "answer")) == {"answer": ["the answer is 4"]}


class Steps(dspy.Module):
    """Two predictors, the second one scaled apart."""

    def __init__(self) -> None:
        super().__init__()
        self.rewrite = dspy.Predict("question -> query")
        self.answer = DynScaling(dspy.Predict("query -> answer"), budget=3)

    def forward(self, question: str) -> dspy.Prediction:
        return self.answer(query=self.rewrite(question=question).query)


def test_each_predictor_is_heard_by_its_listeners(server: FakeServer) -> None:
    program = Steps()
    listeners = StreamListener("answer", predict=program.answer, predict_name="answer"), "query"
    with dspy.context(lm=server.lm()):
        told = words(heard(program, *listeners))
    assert whole(told["query"]) == "the answer is 4" and len(told["query"]) > 1  # of a predictor that is plain
    assert told["answer"] == ["unknown"]  # no question of the server's is left in its prompt
    with dspy.context(lm=server.lm()):
        assert words(heard(DynScaling(Steps(), budget=3), "query")) == {"query": ["the answer is 4"]}


def test_equal_calls_at_once_are_both_heard(server: FakeServer) -> None:
    program = DynScaling(question_to_answer(), budget=3)

    async def main() -> list[dict[str, list[str]]]:
        async def one() -> dict[str, list[str]]:
            listener = StreamListener(signature_field_name="answer")
            stream = dspy.streamify(program, stream_listeners=[listener], is_async_program=True)
            return words([item async for item in stream(question=QUESTION.text)])  # type: ignore[union-attr]

        return list(await asyncio.gather(one(), one()))

    with dspy.context(lm=server.lm()):
        assert asyncio.run(main()) == [{"answer": ["the answer is 4"]}] * 2


class Odd:
    def __str__(self) -> str:
        raise OSError("no text")


VALUES: list[tuple[Any, Any]] = [
    ("four", "four"),
    (4, "4"),
    (["a", "é"], '["a","é"]'),
    ({"a": [1, None]}, '{"a":[1,null]}'),
    (None, "null"),
    (dspy.Code(code="x = 1"), "x = 1"),  # type: ignore[call-arg]
    (dspy.Reasoning(content="so"), "so"),
    (Odd(), "(Odd without text)"),
]


@pytest.mark.parametrize(("value", "text"), VALUES, ids=[type(value).__name__ for value, _ in VALUES])
def test_a_field_of_any_type_is_heard_as_text(value: Any, text: Any) -> None:
    predictor = dspy.Predict("question -> answer")
    listener = StreamListener("answer", predict=predictor, predict_name="self")
    [chunk] = winning_chunks([(predictor, {}, dspy.Prediction(answer=value))], [listener])
    assert chunk == StreamResponse("self", "answer", text, True)
    assert listener.stream_start and listener.finalize() is None


@pytest.mark.parametrize("reuse", [False, True])
def test_a_listener_hears_the_first_of_several_answers_or_all(reuse: bool) -> None:
    predictor, other = dspy.Predict("question -> answer"), dspy.Predict("question -> answer")
    listener = StreamListener("answer", predict=predictor, allow_reuse=reuse)
    trace = [(asked, {}, dspy.Prediction(answer=text)) for asked, text in ((predictor, "1"), (other, "2"))]
    trace.append((predictor, {}, dspy.Prediction(answer="3")))
    trace.append((predictor, {}, dspy.Prediction(another="4")))
    assert [chunk.chunk for chunk in winning_chunks(trace, [listener])] == (["1", "3"] if reuse else ["1"])


# ---- status messages


class Said(StatusMessageProvider):
    """Says everything there is to say."""

    def tool_start_status_message(self, instance: Any, inputs: dict[str, Any]) -> str:
        return f"calls {instance.name}"

    def tool_end_status_message(self, outputs: Any) -> str:
        return f"has {outputs}"

    def module_start_status_message(self, instance: Any, inputs: dict[str, Any]) -> str:
        return f"begins {type(instance).__name__}"

    def module_end_status_message(self, outputs: Any) -> str:
        return "ends"

    def lm_start_status_message(self, instance: Any, inputs: dict[str, Any]) -> str:
        return "asks"

    def lm_end_status_message(self, outputs: Any) -> str:
        return "has an answer"


def search(query: str) -> str:
    """Search for something."""
    return "nothing"


def said(program: Any, server: FakeServer, **way: Any) -> list[str]:
    with dspy.context(lm=server.lm(cache=False)):
        items = heard(program, status_message_provider=Said(), **way)
    return [item.message for item in items if isinstance(item, StatusMessage)]


@ways
@pytest.mark.parametrize("budget", [1, 3])
def test_tools_are_heard_once_whatever_the_samples(server: FakeServer, budget: int, way: dict[str, Any]) -> None:
    def agent() -> dspy.Module:
        return dspy.ReAct("question -> answer", tools=[search])

    plain = said(agent(), server, **way)
    tools = [message for message in plain if message.startswith(("calls", "has nothing"))]
    assert tools == ["calls search", "has nothing"]
    scaled = said(DynScaling(agent(), budget=budget), server, **way)
    assert scaled == ["begins DynScaling", *plain[1:]]  # which ends with the call, not with its first sample
    wrapped = said(wrap(agent(), budget=budget), server, **way)
    assert wrapped == plain
    inside = said(DynScaling(wrap(agent(), budget=budget), budget=budget), server, **way)
    assert inside == scaled


def test_a_stream_that_nobody_reads_any_more_fails_no_call(caplog: pytest.LogCaptureFixture) -> None:
    async def closed() -> UserStream:
        send, receive = anyio.create_memory_object_stream(1)
        stream = UserStream(send, asyncio.get_running_loop())
        stream.post("kept")
        assert receive.receive_nowait() == "kept"
        receive.close()
        stream.post("lost")
        await stream.notice("lost").asend()
        send.close()
        return stream

    stream = asyncio.run(closed())
    stream.post("lost")  # its loop is closed
    UserStream(None, None).post("lost")
    with contextlib.suppress(StopIteration):
        stream.notice("lost").send()
    assert stream.hand_on(awaited=False) is None


def test_what_finds_no_room_waits_for_its_turn() -> None:
    async def main() -> list[int]:
        send, receive = anyio.create_memory_object_stream(2)
        stream = UserStream(send, asyncio.get_running_loop())
        for number in range(10):
            stream.post(number)
        return [await receive.receive() for _ in range(10)]

    assert asyncio.run(main()) == list(range(10))


def test_a_label_is_heard_as_it_is_written() -> None:
    class Sort(dspy.Signature):
        question: str = dspy.InputField()
        answer: Literal["yes", "no"] = dspy.OutputField()

    with dspy.context(lm=ScriptedModel(cycle("yes", "no", "yes")).lm()):
        assert words(heard(DynScaling(dspy.Predict(Sort), budget=3), "answer", question="q")) == {"answer": ["yes"]}


@pytest.mark.parametrize("engine", ["auto", "litellm"])
@pytest.mark.parametrize("named", ["nobody", "the wrapper", "the predictor inside"])
@pytest.mark.parametrize("samples", [1, 3])
def test_listeners_hear_a_bare_predictor_by_each_of_its_names(
    samples: int, named: str, engine: str, server: FakeServer
) -> None:
    program = DynScaling(dspy.Predict("question -> answer"), BudgetPool(per_call=samples, policy=Uniform()))
    who = {"nobody": None, "the wrapper": program, "the predictor inside": program.module}[named]
    with dspy.context(lm=server.lm(engine)):
        items = heard(program, StreamListener("answer", predict=who, predict_name="any"))
    chunks = [item.chunk for item in items if isinstance(item, StreamResponse)]
    assert whole(chunks) == "the answer is 4"
    assert (len(chunks) > 1) == (samples == 1)
