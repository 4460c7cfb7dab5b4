"""Servers that do not take a setting: samples are drawn without it, as the plain program answers without it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import dspy
import pytest

from dynscale_dspy import BudgetPool, Cost, DynScaling, Parallel, explain, wrap
from dynscale_dspy.testing import FakeQuestion, FakeServer
from tests.execution.label_server import LabelServer
from tests.execution.refused_bodies import OTHERS, REFUSALS, UNEXPLAINED
from tests.support import HAS_ENGINES, needs_lm_errors

pytestmark = needs_lm_errors

BANK = [FakeQuestion(f"{number}?", {"42": 1.0}, "42") for number in range(4)]
ENGINES = ["auto", "litellm"] if HAS_ENGINES else ["litellm"]
LOGPROBS_BEFORE = "before DSPy 3.4 logprobs of the user's own that are refused fail, as without the wrapper"
NO_TEMPERATURE = REFUSALS["OpenAI, no temperature"][:2]
BOTH = REFUSALS["Anthropic, beside top_p"][:2]

Mode = Callable[[DynScaling], list[Any]]


def calls(qa: DynScaling) -> list[Any]:
    return [qa(question=question.text) for question in BANK]


def tasks(qa: DynScaling) -> list[Any]:
    async def main() -> list[Any]:
        return [await qa.acall(question=question.text) for question in BANK]

    return asyncio.run(main())


def batch(qa: DynScaling) -> list[Any]:
    return qa.batch([{"question": question.text} for question in BANK], num_threads=2, disable_progress_bar=True)


def parallel(qa: DynScaling) -> list[Any]:
    examples = [dspy.Example(question=question.text).with_inputs("question") for question in BANK]
    return dspy.Parallel(num_threads=2, disable_progress_bar=True)([(qa, example) for example in examples])


MODES: dict[str, Mode] = {"calls": calls, "tasks": tasks, "batch": batch, "parallel": parallel}


def scaled(module: dspy.Module | None = None, each: int = 4, **options: Any) -> DynScaling:
    pool = BudgetPool(samples=each * len(BANK), min_per_call=each, max_per_call=each)
    return DynScaling(module or dspy.Predict("question -> answer"), pool, sampling=Parallel(), **options)


def votes(predictions: list[Any]) -> list[int]:
    assert all(prediction.answer == "42" for prediction in predictions)
    return [explain(prediction).votes[0].total for prediction in predictions]


def assert_books(qa: DynScaling, fake: FakeServer) -> None:
    """Each request was booked, the refused ones too, and none of those as a sample."""
    now, counted = qa.pool.statistics(), fake.statistics()
    assert (now.spent.requests, now.reserved, now.open_calls) == (counted.requests, Cost(), 0)
    assert now.spent.prompt_tokens == counted.prompt_tokens


def refusals(fake: FakeServer, name: str = "temperature") -> int:
    return sum(body.get(name) is not None for body in fake.bodies)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("mode", MODES)
def test_samples_are_drawn_without_a_temperature_that_is_refused(mode: str, engine: str, server: Any) -> None:
    fake = server(BANK, refused={"temperature": NO_TEMPERATURE})
    qa = scaled()
    with dspy.context(lm=fake.lm(engine, temperature=None)):
        assert votes(MODES[mode](qa)) == [4] * len(BANK)
        assert_books(qa, fake)
        # Those that were under way before the first refusal came are refused too, and none later.
        assert 1 <= refusals(fake) <= 8
        before = refusals(fake)
        votes(MODES[mode](scaled()))
    with dspy.context(lm=fake.lm(engine, temperature=None, max_tokens=77)):  # another object for the same model
        votes(MODES[mode](scaled()))
    assert refusals(fake) == before


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", REFUSALS)
def test_what_providers_say_is_understood(name: str, engine: str, server: Any) -> None:
    status, body, refused = REFUSALS[name]
    setting = next(iter(refused))
    if setting == "logprobs" and not HAS_ENGINES:
        pytest.skip(LOGPROBS_BEFORE)
    fake = server(BANK, refused={f"{setting}+top_p" if "top_p" in str(body) else setting: (status, body)})
    own = {"temperature": None} if setting == "temperature" else {"temperature": 1.0, setting: 1}
    if "top_p" in str(body):
        own["top_p"] = 0.9
    qa = scaled()
    with dspy.context(lm=fake.lm(engine, **own)):
        assert votes(calls(qa)) == [4] * len(BANK)
    assert_books(qa, fake)
    answered = [body for body in fake.bodies if body.get(setting) is None]
    assert len(answered) >= 4 and all(body.get("top_p") == own.get("top_p") for body in answered)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", UNEXPLAINED)
def test_a_refusal_that_says_nothing_is_found_out(name: str, engine: str, server: Any) -> None:
    fake = server(BANK, refused={"temperature": UNEXPLAINED[name]})
    qa = scaled()
    with dspy.context(lm=fake.lm(engine, temperature=None)):
        assert votes(calls(qa)) == [4] * len(BANK)
        assert_books(qa, fake)
        before = refusals(fake)
        votes(calls(scaled()))
    assert refusals(fake) == before


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", OTHERS)
def test_what_is_turned_away_for_something_else_raises_what_the_plain_program_raises(
    name: str, engine: str, server: Any
) -> None:
    fake = server(BANK, refused={"messages": OTHERS[name]})

    def raised(program: Any) -> Exception:
        with dspy.context(lm=fake.lm(engine, temperature=None)), pytest.raises(Exception) as error:
            program(question=BANK[0].text)
        return error.value

    plain, wrapped = raised(dspy.Predict("question -> answer")), raised(scaled(each=1, max_choices=1))
    assert (type(wrapped), str(wrapped)) == (type(plain), str(plain))
    asked = [body.get("temperature") for body in fake.bodies]
    assert asked == [None, None]
    fake.reset()
    more = raised(scaled(max_choices=1))
    assert (type(more), str(more)) == (type(plain), str(plain))
    # DSPy's native engine hands on nothing of Mistral's replies.
    unknown = name == "unknown" or (engine == "auto" and "Mistral" in name)
    assert unknown == (None in [body.get("temperature") for body in fake.bodies])  # as the plain program asks
    fake.reset(refused={})
    with dspy.context(lm=fake.lm(engine, temperature=None)):
        votes(calls(scaled()))
    assert all(body.get("temperature") == 1.0 for body in fake.bodies)  # nor learned


@pytest.mark.parametrize("engine", ENGINES)
def test_what_answers_the_plain_program_answers_its_samples_whatever_it_says(engine: str, server: Any) -> None:
    body = {"error": {"message": "One way of sampling is enough.", "type": "invalid_request_error", "param": "top_p"}}
    fake = server(BANK, refused={"temperature+top_p": (400, body)})
    with dspy.context(lm=fake.lm(engine, temperature=None, top_p=0.9)):
        assert votes(calls(scaled())) == [4] * len(BANK)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_temperature_refused_beside_top_p_is_sent_where_there_is_none(engine: str, server: Any) -> None:
    fake = server(BANK, refused={"temperature+top_p": BOTH})
    with dspy.context(lm=fake.lm(engine, temperature=None, top_p=0.9)):
        votes(calls(scaled()))
    assert {body["top_p"] for body in fake.bodies} == {0.9}
    fake.reset()
    with dspy.context(lm=fake.lm(engine, temperature=None)):
        votes(calls(scaled()))
    assert {body["temperature"] for body in fake.bodies} == {1.0}


@pytest.mark.parametrize("engine", ENGINES)
def test_settings_of_the_users_own_that_are_refused_are_said_once(engine: str, server: Any, caplog: Any) -> None:
    if not HAS_ENGINES:
        pytest.skip(LOGPROBS_BEFORE)
    refused = {
        name: REFUSALS[kind][:2] for name, kind in [("seed", "Mistral"), ("logprobs", "Gemini, log probabilities")]
    }
    fake = server(BANK, refused={**refused, "temperature": NO_TEMPERATURE})
    own = {"seed": 5, "logprobs": True, "temperature": 0.7}
    with caplog.at_level(logging.WARNING, "dynscale_dspy"), dspy.context(lm=fake.lm(engine, **own)):
        assert votes(calls(scaled())) == [4] * len(BANK)
        votes(calls(scaled()))
    ours = [record for record in caplog.records if record.name.startswith("dynscale_dspy")]
    assert sorted(record.getMessage() for record in ours) == [
        f"openai/fake does not take {name}: it is asked without from now on"
        for name in ("logprobs", "seed", "temperature")
    ]


@pytest.mark.parametrize("engine", ENGINES)
def test_what_the_user_did_not_ask_for_is_given_up_quietly(engine: str, server: Any, caplog: Any) -> None:
    fake = server(BANK, refused={"temperature": NO_TEMPERATURE})
    with caplog.at_level(logging.DEBUG, "dynscale_dspy"), dspy.context(lm=fake.lm(engine, temperature=None)):
        votes(calls(scaled()))
    told = [record for record in caplog.records if "does not take" in record.getMessage()]
    assert [record.levelname for record in told] == ["DEBUG"]
    ours = [record for record in caplog.records if record.name.startswith("dynscale_dspy")]
    assert all(record.levelno <= logging.INFO for record in ours)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_value_out_of_range_is_the_users_to_mend(engine: str, server: Any) -> None:
    body = {"error": {"message": "temperature must be between 0 and 1", "type": "invalid_request_error"}}
    fake = server(BANK, refused={"temperature": (400, body)})
    with dspy.context(lm=fake.lm(engine, temperature=None)):
        with pytest.raises(Exception, match="must be between 0 and 1"):
            scaled(temperature=1.5)(question=BANK[0].text)
        assert votes(calls(scaled())) == [4] * len(BANK)  # no choice of the user's


@pytest.mark.parametrize("engine", ENGINES)
def test_refusals_count_against_no_breaker_and_not_as_errors_of_a_batch(engine: str, server: Any) -> None:
    fake = server(BANK, refused={"temperature": NO_TEMPERATURE})
    pool = BudgetPool(samples=16, min_per_call=4, max_per_call=4, max_failures=1)
    qa = DynScaling(dspy.Predict("question -> answer"), pool, sampling=Parallel())
    examples = [{"question": question.text} for question in BANK]
    with dspy.context(lm=fake.lm(engine, temperature=None)):
        assert votes(qa.batch(examples, max_errors=1, disable_progress_bar=True)) == [4] * len(BANK)
    assert not pool.stopped and pool.statistics().spent.samples == 16


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("requests", [2, 4])
def test_a_tight_cap_on_requests_still_answers(requests: int, engine: str, server: Any) -> None:
    fake = server(BANK, refused={"temperature": NO_TEMPERATURE})
    pool = BudgetPool(requests=requests, min_per_call=4, max_per_call=4)
    with dspy.context(lm=fake.lm(engine, temperature=None)):
        scaled = DynScaling(dspy.Predict("question -> answer"), pool, sampling=Parallel())
        assert scaled(question=BANK[0].text).answer == "42"
    assert pool.statistics().spent.requests == fake.statistics().requests <= requests and refusals(fake) == 1


@pytest.mark.parametrize("engine", ENGINES)
def test_a_reply_that_cannot_be_read_is_a_reply(engine: str, server: Any) -> None:
    fake = server(BANK, refused={"temperature": NO_TEMPERATURE}, fault_rate=1.0, faults=["prose"])
    with dspy.context(lm=fake.lm(engine, temperature=None), adapter=dspy.JSONAdapter()):
        for _ in range(2):
            with pytest.raises(dspy.utils.exceptions.AdapterParseError):
                scaled(max_choices=1)(question=BANK[0].text)
    assert refusals(fake) <= 4  # of the first call


@pytest.mark.parametrize("engine", ENGINES)
def test_samples_stay_distinct_requests_in_the_cache(engine: str, server: Any) -> None:
    bank = [FakeQuestion("heads or tails?", {"heads": 0.5, "tails": 0.5}, "heads")]
    fake = server(bank, refused={"temperature": NO_TEMPERATURE})
    with dspy.context(lm=fake.lm(engine, temperature=None, cache=True)):
        first = scaled(each=8, max_choices=1)(question=bank[0].text)
        made = fake.statistics().requests
        again = scaled(each=8, max_choices=1)(question=bank[0].text)
    assert len(explain(first).votes) == 2 and sum(vote.total for vote in explain(first).votes) == 8
    assert explain(again).votes == explain(first).votes and fake.statistics().requests == made


class Asks(dspy.Module):
    """Calls its language model itself."""

    def forward(self, question: str) -> Any:
        return dspy.Prediction(answer=dspy.settings.lm(question)[0])

    async def aforward(self, question: str) -> Any:
        return dspy.Prediction(answer=(await dspy.settings.lm.acall(question))[0])


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("mode", ["calls", "tasks"])
def test_requests_that_a_program_makes_itself_are_made_again(mode: str, engine: str, server: Any) -> None:
    fake = server(BANK, refused={"temperature": NO_TEMPERATURE})
    qa = scaled(Asks(), answer="answer")
    with dspy.context(lm=fake.lm(engine, temperature=None)):
        assert len(MODES[mode](qa)) == len(BANK)
        assert_books(qa, fake)
        assert 1 <= refusals(fake) <= 8


@pytest.mark.parametrize("engine", ENGINES)
def test_wrapped_in_place(engine: str, server: Any) -> None:
    fake = server(BANK, refused={"temperature": NO_TEMPERATURE})
    program = wrap(dspy.ChainOfThought("question -> answer"), budget=3)
    with dspy.context(lm=fake.lm(engine, temperature=None)):
        assert program(question=BANK[0].text).answer == "42"


# ---- several choices


def choices(fake: FakeServer) -> list[int]:
    return [body.get("n") or 1 for body in fake.bodies]


@pytest.mark.parametrize("mode", ["calls", "tasks", "batch"])
@pytest.mark.parametrize("retries", [0, 3])
def test_a_server_that_fails_on_several_choices_is_asked_for_one_each(mode: str, retries: int, server: Any) -> None:
    fake = server(BANK, refused={"n": (500, {"error": {"message": "internal error", "type": "server_error"}})})
    qa = scaled()
    with dspy.context(lm=fake.lm("litellm", num_retries=retries)):
        assert votes(MODES[mode](qa)) == [4] * len(BANK)
    assert_books(qa, fake)
    assert 1 <= sum(asked > 1 for asked in choices(fake)) <= 2  # as many as were under way at once


@pytest.mark.parametrize("mode", ["calls", "tasks", "batch"])
def test_a_server_that_is_unavailable_to_several_choices_is_asked_for_one_each(mode: str, server: Any) -> None:
    fake = server(BANK, refused={"n": (503, {"error": {"message": "unavailable", "type": "server_error"}})})
    qa = scaled()
    with dspy.context(lm=fake.lm("litellm", num_retries=0)):
        assert all(count >= 3 for count in votes(MODES[mode](qa)))  # the first sample of a call fails
    assert_books(qa, fake)
    assert sum(asked > 1 for asked in choices(fake)) <= 2 * len(BANK)


@pytest.mark.parametrize("mode", ["calls", "tasks", "batch"])
def test_a_refusal_of_several_choices_may_name_a_setting_that_was_given_up(mode: str, server: Any) -> None:
    refusal = (400, {"error": {"message": "unsupported: n, temperature", "type": "invalid_request_error"}})
    fake = server(BANK, refused={"temperature": refusal, "n": refusal})
    qa = scaled()
    with dspy.context(lm=fake.lm("litellm", num_retries=0, temperature=None)):
        assert votes(MODES[mode](qa)) == [4] * len(BANK)
    assert_books(qa, fake)


def test_an_outage_is_not_taken_for_it(server: Any) -> None:
    fake = server(BANK, fault_rate=1.0, faults=["500"])
    with dspy.context(lm=fake.lm("litellm")):
        with pytest.raises(Exception, match="fault 500"):
            scaled()(question=BANK[0].text)
        assert len(fake.bodies) <= 4
        fake.reset(fault_rate=0.0)
        votes(calls(scaled()))
    assert choices(fake) == [4] * len(BANK)


def test_a_temperature_and_several_choices_may_both_be_refused(server: Any) -> None:
    for refused in (
        {"temperature": NO_TEMPERATURE, "n": (400, {"error": {"message": "n must be 1"}})},
        {"n": (422, {"detail": "one choice only"}), "temperature": UNEXPLAINED["no words at all"]},
    ):
        fake = server(BANK, refused=refused)
        qa = scaled()
        with dspy.context(lm=fake.lm("litellm", temperature=None)):
            assert votes(calls(qa)) == [4] * len(BANK)
        assert_books(qa, fake)
        assert refusals(fake) <= 3 and sum(asked > 1 for asked in choices(fake)) <= 2


def test_choices_go_on_to_be_shared_without_a_temperature(server: Any) -> None:
    fake = server(BANK, refused={"temperature": NO_TEMPERATURE})
    with dspy.context(lm=fake.lm("litellm", temperature=None)):
        votes(calls(scaled()))
    assert choices(fake) == [4] * (len(BANK) + 1) and refusals(fake) == 1


def test_at_temperature_zero_all_but_the_first_sample_share_a_request(server: Any) -> None:
    fake = server(BANK)
    with dspy.context(lm=fake.lm("litellm", temperature=0.0)):
        votes(calls(scaled()))
    assert [(body.get("n") or 1, body["temperature"]) for body in fake.bodies] == [(1, 0.0), (3, 1.0)] * len(BANK)


ZERO = {
    "text generation inference": (422, {"error": "Input validation error: `temperature` must be strictly positive"}),
    "the default only": (400, {"error": {"message": "'temperature' does not support 0", "code": "unsupported_value"}}),
    "a range": (400, {"error": {"message": "temperature must be in (0, 2]", "type": "invalid_request_error"}}),
    "a validator": (400, {"detail": [{"loc": ["body", "temperature"], "msg": "ensure this value is greater than 0"}]}),
}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("own", [0.7, None])
@pytest.mark.parametrize("words", ZERO)
def test_a_temperature_of_0_that_is_refused_takes_no_other_temperature_with_it(
    words: str, own: float | None, engine: str
) -> None:
    def refuse(request: dict[str, Any]) -> Any:
        return ZERO[words] if request.get("temperature") == 0 else None

    with LabelServer({"World": 0.6, "Sports": 0.4}, "reasoned", refuse=refuse) as server:
        qa = DynScaling(
            dspy.ChainOfThought("text -> topic"), BudgetPool(samples=8, min_per_call=4, max_per_call=4), max_choices=1
        )
        with dspy.context(lm=server.lm(engine, **({} if own is None else {"temperature": own}))):
            made = [qa(text=text) for text in ("a", "b")]
    asked = [request.get("temperature") for request in server.requests]
    assert asked.count(0.0) == 1 and asked.count(own or 1.0) == len(asked) - 1 == 8
    assert not any(sample.problem for each in made for sample in explain(each).samples)


def test_a_server_that_takes_no_temperature_is_asked_once_by_a_greedy_sample(server: Any) -> None:
    fake = server(BANK, refused={"temperature": NO_TEMPERATURE})
    qa = DynScaling(dspy.Predict("question -> answer"), BudgetPool(samples=1))
    with dspy.context(lm=fake.lm(temperature=None)):
        qa(question=BANK[0].text)
    assert [body.get("temperature") for body in fake.bodies] == [0.0, None]
