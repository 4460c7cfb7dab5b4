"""Votes with the probabilities of labels, over the wire: what is asked, what comes of it, and what goes wrong."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Annotated, Any, Literal

import dspy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynscale_dspy import BudgetPool, DynScaling, Integrated, Parallel, Sequential, explain, wrap
from dynscale_dspy.execution import token_probabilities
from dynscale_dspy.execution.token_probabilities import LabelReader, tokens_of
from dynscale_dspy.selection.base import Vote
from dynscale_dspy.selection.labels import Labels
from dynscale_dspy.selection.plurality import Plurality
from tests.execution.label_server import LabelServer
from tests.support import ASKS_ONCE, ENGINES, ScriptedModel

Topic = Literal["World", "Sports", "Business", "Sci/Tech"]
SHARES = {"World": 0.55, "Sports": 0.25, "Business": 0.15, "Sci/Tech": 0.05}
engines = pytest.mark.parametrize("engine", ENGINES)


class Classify(dspy.Signature):
    """Classify a title."""

    title: str = dspy.InputField()
    topic: Topic = dspy.OutputField()


@pytest.fixture
def labels() -> Iterator[Callable[..., LabelServer]]:
    """Starts servers, and stops them after the test."""
    with ExitStack() as running:

        def start(*args: Any, **options: Any) -> LabelServer:
            return running.enter_context(LabelServer(*(args or (SHARES,)), **options))

        yield start


def scaled(program: Any = Classify, **options: Any) -> DynScaling:
    program = program if isinstance(program, dspy.Module) else dspy.Predict(program)
    return DynScaling(program, **{"budget": 4, "sampling": Parallel(first="greedy"), **options})


def of(prediction: Any) -> dict[str, float]:
    return {votes.answer: votes.probability for votes in explain(prediction).votes}


# ---- one sample tells all


@engines
@pytest.mark.parametrize("how", ["call", "acall", "batch"])
@pytest.mark.parametrize(
    ("frame", "adapter"), [("chat", dspy.ChatAdapter()), ("json", dspy.JSONAdapter()), ("xml", dspy.XMLAdapter())]
)
def test_one_request_brings_the_votes_of_all_labels(labels, engine, how, frame, adapter) -> None:
    server, trace = labels(frame=frame), []
    lm = server.lm(engine)
    with dspy.context(lm=lm, adapter=adapter, trace=trace):
        qa = scaled()
        if how == "batch":
            (out,) = qa.batch([{"title": "t"}], disable_progress_bar=True)
        else:
            out = asyncio.run(qa.acall(title="t")) if how == "acall" else qa(title="t")
    assert out.topic == "World" and of(out) == pytest.approx(SHARES, abs=1e-4)
    told = explain(out)
    assert told.confidence == pytest.approx(0.55, abs=1e-5) and told.is_told and told.agreement == 1
    assert len(told.samples) == told.answers == 1 and "(probability 0.550)" in str(told)
    (request,) = server.requests
    assert request["logprobs"] is True and request["top_logprobs"] == 16
    # Nothing of it is left where it was not asked for.
    assert list(out.keys()) == ["topic"] and [list(entry[2].keys()) for entry in trace] == [["topic"]]
    for entry in lm.history:
        assert all(isinstance(output, str) for output in entry["outputs"])
        assert "top_logprobs=[" not in repr(entry["response"]) and "logprob=" not in repr(entry["response"])


@engines
def test_samples_that_reason_vote_for_every_label_given_their_reasoning(labels, engine) -> None:
    server = labels(frame="reasoned")
    program, pool = dspy.ChainOfThought(Classify), BudgetPool(samples=4, min_per_call=4)
    with dspy.context(lm=server.lm(engine, temperature=1.0)):
        out = scaled(program, budget=pool, sampling=Parallel(first="own"))(title="t")
    told = explain(out)
    assert len(told.samples) == 4 and not told.is_told
    assert out.topic == "World"  # each of the four samples gave another label
    assert out.topic == "World" and {request["top_logprobs"] for request in server.requests} == {5}
    assert sum(request.get("n") or 1 for request in server.requests) == 4


def test_the_replies_of_a_shared_request_are_told_apart_litellm(labels) -> None:
    server = labels(frame="reasoned")
    program = dspy.ChainOfThought(Classify)
    with dspy.context(lm=server.lm("litellm", temperature=1.0)):
        pool = BudgetPool(samples=4, min_per_call=4)
        out = scaled(program, budget=pool, sampling=Parallel(first="own"))(title="t")
    assert [request.get("n") for request in server.requests] == [4]
    told = explain(out)
    assert [sample.answer for sample in told.samples] == list(SHARES)
    assert out.topic == "World"  # each of the four samples gave another label
    assert all("logprobs" not in sample.prediction for sample in told.samples)


@engines
def test_a_predictor_that_is_scaled_in_place_tells_all_too(labels, engine) -> None:
    class Program(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            self.classify = dspy.Predict(Classify)

        def forward(self, title: str) -> dspy.Prediction:
            return self.classify(title=title)

    server = labels()
    with dspy.context(lm=server.lm(engine)):
        out = wrap(Program(), budget=4)(title="t")
    assert of(out) == pytest.approx(SHARES, abs=1e-4) and len(server.requests) == 1


def test_a_label_that_no_sample_gave_does_not_win_but_is_looked_for(labels) -> None:
    server = labels({"World": 0.6, "Sports": 0.4})
    with dspy.context(lm=server.lm(temperature=1.0)):
        first, second = (scaled(sampling=Parallel(first="own"))(title=title) for title in "tu")
        third = scaled(budget=BudgetPool(samples=1, max_per_call=4), sampling=Parallel(first="own"))(title="v")
    assert first.topic == "World" and len(explain(first).samples) == 1
    assert second.topic == "World" and [sample.answer for sample in explain(second).samples] == ["Sports", "World"]
    assert [request["temperature"] for request in server.requests] == [1.0, 1.0, 0.0, 1.0]
    assert third.topic == "Sports" and explain(third).confidence == pytest.approx(0.4, 1e-4)


@pytest.mark.parametrize("scaling", [Integrated(), Parallel(first="greedy")])
def test_attempts_of_best_of_n_are_draws_of_their_own(labels, scaling) -> None:
    server = labels({"World": 0.6, "Sports": 0.4})
    qa = scaled(sampling=scaling)
    best = dspy.BestOfN(qa, N=4, reward_fn=lambda args, made: 0.0, threshold=1.0)
    with dspy.context(lm=server.lm(temperature=1.0)):
        best(title="t")
    asked = [request["temperature"] for request in server.requests]
    assert asked[0] == 0.0 and len(asked) > 3 and set(asked[1:]) == {1.0}


class Undecided(Plurality):
    """Takes the label Business for no answer."""

    def read(self, answer: Any) -> Any:
        return None if answer == "Business" else super().read(answer)


def test_a_selector_that_takes_a_label_for_no_answer_loses_no_other_vote(labels) -> None:
    server = labels()
    with dspy.context(lm=server.lm(temperature=1.0)):
        # One after another: what the server says goes by the number of the request.
        one = Sequential()
        out = scaled(budget=BudgetPool(samples=4, min_per_call=4), selector=Undecided(), sampling=one)(title="t")
    assert sorted(sample.problem for sample in explain(out).samples) == ["", "", "", "no answer"]
    assert out.topic == "World"


@engines
def test_the_cache_keeps_what_was_told(labels, engine) -> None:
    server = labels()
    with dspy.context(lm=server.lm(engine, cache=True)):
        qa = scaled()
        first, second = qa(title="t"), qa(title="t")
    assert len(server.requests) == 1 and of(first) == of(second) == pytest.approx(SHARES, abs=1e-4)


@engines
def test_what_a_user_asked_for_stays_in_the_prediction(labels, engine) -> None:
    server = labels()
    with dspy.context(lm=server.lm(engine, logprobs=True, top_logprobs=3)):
        out = scaled()(title="t")
    assert out.logprobs["content"][1]["token"] == "World"
    assert server.requests[0]["top_logprobs"] == 3 and len(server.requests) == 1
    assert of(out) == pytest.approx(SHARES, abs=1e-4)  # the fourth has what is left


# ---- when nothing is asked


@pytest.mark.parametrize(
    ("program", "options"),
    [
        (dspy.Predict(Classify), {"probabilities": False}),
        (dspy.Predict(Classify), {"budget": 1}),
        (dspy.Predict(Classify), {"max_samples": 1}),
        (dspy.Predict("title -> topic"), {}),
        (dspy.Predict(Classify.append("mood", dspy.OutputField(), Literal["good", "bad"])), {}),
        (dspy.Predict(Classify), {"answer": lambda prediction: prediction.topic}),
        # Where a refused request may be one that a call then lacks.
        (dspy.Predict(Classify), {"budget": BudgetPool(requests=10)}),
    ],
)
def test_nothing_is_asked_where_it_is_of_no_use(labels, program, options) -> None:
    server = labels()
    with dspy.context(lm=server.lm()):
        with contextlib.suppress(dspy.utils.exceptions.AdapterParseError):  # the server gives no mood
            scaled(program, **options)(title="t")
    assert server.requests and not any("logprobs" in request for request in server.requests)


def test_an_adapter_that_asks_twice_is_left_alone(labels) -> None:
    server = labels()
    with dspy.context(lm=server.lm(), adapter=dspy.TwoStepAdapter(server.lm())):
        assert scaled()(title="t").topic
    assert not any("logprobs" in request for request in server.requests)


def test_a_cap_on_requests_is_no_obstacle_where_it_is_known_that_nothing_is_refused(labels) -> None:
    server = labels()
    with dspy.context(lm=server.lm()):
        scaled()(title="t")
        out = scaled(budget=BudgetPool(requests=10))(title="u")
        assert explain(out).is_told and len(server.requests) == 2


def test_under_a_cap_on_requests_one_finds_out(labels) -> None:
    server = labels(refuse=refusing(400, "logprobs is not supported"))
    with dspy.context(lm=server.lm(), adapter=ASKS_ONCE):
        pool = BudgetPool(requests=40, per_call=4)
        outs = scaled(budget=pool).batch([{"title": f"{i}"} for i in range(8)], num_threads=8)
    assert all(out.topic in SHARES for out in outs)
    assert sum("logprobs" in request for request in server.requests) == 1


# ---- when it goes wrong


def refusing(status: int, message: str, *, when: Callable[[Any], Any] = lambda request: request.get("logprobs")) -> Any:
    body = {"error": {"message": message, "type": "invalid_request_error"}}
    return lambda request: (status, body) if when(request) else None


@engines
@pytest.mark.parametrize(
    ("status", "message"),
    [
        (400, "logprobs is not supported with this model"),
        (400, "Unsupported parameter: 'logprobs'"),
        (400, "bad request"),
        (422, "Extra inputs are not permitted"),
        (403, "You are not allowed to request logprobs from this model"),
    ],
)
def test_a_route_that_refuses_is_asked_as_before(labels, engine, status, message) -> None:
    server = labels(refuse=refusing(status, message))
    with dspy.context(lm=server.lm(engine, temperature=1.0), adapter=ASKS_ONCE):
        qa = scaled(sampling=Parallel(first="own"))
        out = qa(title="t")
        asked = sum("logprobs" in request for request in server.requests)
        assert out.topic and all(not sample.problem for sample in explain(out).samples) and asked == 1
        qa(title="u")
    assert sum("logprobs" in request for request in server.requests) == 1
    # What makes samples differ is not given up for it.
    assert server.requests[-1]["temperature"] == 1.0


@engines
def test_an_error_of_the_server_may_be_chance_once(labels, engine) -> None:
    failing = [True]
    server = labels(refuse=refusing(500, "internal server error", when=lambda r: r.get("logprobs") and failing))
    with dspy.context(lm=server.lm(engine, temperature=1.0), adapter=ASKS_ONCE):
        qa = scaled()
        assert explain(qa(title="t")).samples[0].answer == "World"
        failing.clear()
        assert explain(qa(title="u")).is_told

    always = labels(refuse=refusing(500, "internal server error"))
    with dspy.context(lm=always.lm(engine, temperature=1.0), adapter=ASKS_ONCE):
        qa = scaled(sampling=Parallel(first="own"))
        for title in "tuvw":
            assert all(not sample.problem for sample in explain(qa(title=title)).samples)
    assert sum("logprobs" in request for request in always.requests) == 2


@engines
def test_what_is_refused_for_another_reason_is_no_reason_to_give_it_up(labels, engine) -> None:
    refuse = refusing(
        400, "temperature is not supported with this model", when=lambda request: "temperature" in request
    )
    server = labels(refuse=refuse)
    with dspy.context(lm=server.lm(engine), adapter=ASKS_ONCE):
        assert explain(scaled()(title="t")).is_told
    assert "temperature" not in server.requests[-1] and "logprobs" in server.requests[-1]


@engines
def test_a_server_that_caps_alternatives_is_asked_for_fewer(labels, engine) -> None:
    refuse = refusing(
        400, "top_logprobs must be less than or equal to 5", when=lambda request: (request.get("top_logprobs") or 0) > 5
    )
    server = labels(refuse=refuse)
    with dspy.context(lm=server.lm(engine), adapter=ASKS_ONCE):
        qa = scaled()
        for title in "tu":
            assert explain(qa(title=title)).is_told
    assert [request["top_logprobs"] for request in server.requests] == [16, 5, 5]


SPOILT: dict[str, Callable[[Any], Any]] = {
    "none": lambda told: None,
    "empty": lambda told: {"content": []},
    "null content": lambda told: {"content": None, "refusal": None},
    "text": lambda told: "x",
    "list": lambda told: [1],
    "other tokens": lambda told: {"content": [{"token": "x", "logprob": -1.0, "bytes": None, "top_logprobs": []}]},
    **{
        name: lambda told, bad=bad: {"content": [{**entry, **bad} for entry in told["content"]]}
        for name, bad in {
            "no numbers": {"logprob": None},
            "words for numbers": {"logprob": "high"},
            "not a number": {"logprob": math.nan},
            "minus infinity": {"logprob": -math.inf},
            "floor": {"logprob": -9999.0},
            "above one": {"logprob": 3.0},
            "no alternatives": {"top_logprobs": None},
            "words for alternatives": {"top_logprobs": "zz"},
            "bad alternatives": {"top_logprobs": [{"token": None, "logprob": None}, 7]},
            "no bytes": {"bytes": None},
            "empty bytes": {"bytes": []},
            "bytes that are none": {"bytes": [999, "x"]},
            "no token": {"token": None},
        }.items()
    },
}


USELESS = ("none", "empty", "null content", "text", "list", "other tokens")


@engines
@pytest.mark.parametrize("kind", SPOILT)
def test_whatever_a_server_tells_no_sample_is_lost(labels, engine, kind) -> None:
    server = labels(spoil=SPOILT[kind])
    with dspy.context(lm=server.lm(engine, temperature=1.0)):
        qa = scaled(budget=BudgetPool(per_call=4), sampling=Parallel(first="own"))
        for title in ("t", "u", "v"):
            out = qa(title=title)
            told = explain(out)
            assert out.topic in SHARES and list(out.keys()) == ["topic"]
            assert all(not sample.problem for sample in told.samples) and 0 < told.confidence <= 1
    if kind in USELESS:
        assert not any("logprobs" in request for request in server.requests[1:])


def test_a_route_that_answers_without_is_not_asked_again(labels) -> None:
    server = labels(spoil=lambda told: None)
    with dspy.context(lm=server.lm()):
        qa = scaled()
        assert [qa(title=title).topic for title in "tuv"] == ["World"] * 3
    first, *others = ["logprobs" in request for request in server.requests]
    assert first and others and not any(others)


def test_a_model_in_the_process_that_tells_nothing_is_asked_once() -> None:
    model = ScriptedModel(lambda prompt, number: {"topic": "World"})
    with dspy.context(lm=model.lm()):
        qa = scaled(sampling=Integrated())
        assert qa(title="t").topic == qa(title="u").topic == "World"


json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=5) | st.integers(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["content", "token", "logprob", "bytes", "top_logprobs"]), inner, max_size=5)
    ),
    max_leaves=20,
)
READER = LabelReader("topic", Labels(list(SHARES)), list(SHARES), at_once=True)


@given(json_values)
def test_anything_may_be_told(told: Any) -> None:
    vote = Vote("World", "World")
    for logprobs in (told, {"content": told}, {"content": [told, told]}):
        output = {"text": "[[ ## topic ## ]]\nWorld", "logprobs": logprobs}
        weighed = READER.weighed(vote, output)
        assert weighed.key == "World" and (not weighed.shares or sum(share.weight for share in weighed.shares) == 1)
    assert READER.weighed(vote, told) == vote


def test_tokens_are_read_from_dicts_and_objects() -> None:
    told = {"token": "a", "logprob": -0.5, "bytes": None, "top_logprobs": [{"token": "b", "logprob": -math.inf}]}

    class Entry:
        token, logprob, bytes, top_logprobs = "a", -0.5, None, [{"token": "b", "logprob": -math.inf}]

    class Told:
        content = [Entry()]  # noqa: RUF012

    wanted = [(b"a", math.exp(-0.5), {b"b": 0.0})]
    assert tokens_of({"content": [told]}) == wanted and tokens_of(Told()) == wanted and tokens_of(None) == []


def test_spellings_of_one_text_add_up() -> None:
    told = {
        "token": "x",
        "logprob": 0.0,
        "top_logprobs": [{"token": "�", "bytes": [97], "logprob": math.log(0.25)}] * 2,
    }
    assert tokens_of({"content": [told]})[0].others == pytest.approx({b"a": 0.5})


def test_nothing_is_asked_of_a_program_that_writes_long_texts(labels) -> None:
    server = labels(frame="reasoned")
    server.written = 1_000
    with dspy.context(lm=server.lm(temperature=1.0)):
        qa = scaled(dspy.ChainOfThought(Classify), budget=BudgetPool(per_call=1.5), sampling=Parallel(first="own"))
        qa(title="t")
        first = len(server.requests)
        qa(title="u")
    assert all("logprobs" in request for request in server.requests[:first])
    assert not any("logprobs" in request for request in server.requests[first:])


def test_a_reader_is_made_once_for_a_program() -> None:
    answers, selector = {"topic": Topic}, Plurality()
    one, other = (
        token_probabilities.label_reader(dspy.Predict(Classify), answers, selector, at_once=True) for _ in range(2)
    )
    assert one is other is not None and one.keys == tuple(selector.read(label).key for label in SHARES)
    unhashable = {"topic": Annotated[Topic, ["a list"]]}
    assert token_probabilities.label_reader(dspy.Predict(Classify), unhashable, selector, at_once=True) is not None
