"""Slots of a shared request, asked without a language model. Over the wire: tests/transport/test_folding.py."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import dspy
import pytest

from dynscale_dspy.execution import shared_request
from dynscale_dspy.execution.capabilities import Capability
from dynscale_dspy.execution.shared_request import ReadApart, SharedRequest, Slot, can_share

MESSAGES = [{"role": "user", "content": "q"}]


class Model:
    """What findings are kept for."""

    model = "fake/model"


class Payer:
    """A meter that can pay for so many samples."""

    miscounted = False
    history: Sequence[Mapping[str, Any]] = ()

    def __init__(self, most=99):
        self.most = most

    @contextlib.contextmanager
    def shared(self, lm, messages, kwargs, tickets):
        yield min(1 + len(tickets), self.most)

    def finish_reasons(self):
        return ["stop", "length"]


class BadRequest(Exception):
    """A server's refusal."""

    status_code = 400


class LMAuthError(Exception):
    """DSPy's name for a wrong key."""


@pytest.fixture
def choices(monkeypatch):
    """Findings of this test alone."""
    capability = Capability()
    monkeypatch.setattr(shared_request, "SEVERAL_CHOICES", capability)
    return capability


def ask(slot, *replies, lm=None, meter=None, messages=MESSAGES, **kwargs):
    """Ask through a slot; an exception among the replies is raised. Returns what was asked and the outputs."""
    steps = slot.ask(lm or Model(), meter or Payer(), messages, kwargs)
    asked = []
    try:
        asked.append(next(steps))
        for reply in replies:
            asked.append(steps.throw(reply) if isinstance(reply, Exception) else steps.send(reply))
    except StopIteration as stop:
        return asked, stop.value
    raise AssertionError(f"still asking for {asked[-1]}")


def slots(count):
    request = SharedRequest([None] * count)
    return [Slot(request, position) for position in range(count)]


def test_the_first_asks_for_all_and_the_others_find_their_own(choices):
    first, second, third = slots(3)
    assert ask(first, ["A", "B"]) == ([{"n": 3}], ["A"])
    assert second.is_ready and not third.is_ready
    assert ask(second) == ([], ["B"])
    assert (second.served, second.finish_reason) == (True, "length")
    assert ask(third, ["C"]) == ([{}], ["C"])  # the server gave one too few
    assert not third.served


def test_each_choice_is_told_from_the_others_though_the_response_has_one_id(choices):
    meter = Payer()
    meter.history = [{"response": SimpleNamespace(id="r1"), "outputs": ["one", "two", "one"]}]
    first, second, third = slots(3)
    ask(first, ["one", "two", "one"], meter=meter)
    ask(second, meter=meter), ask(third, meter=meter)
    (one,), (two,), (three,) = first.replies, second.replies, third.replies
    assert [reply.id for reply in (one, two, three)] == ["r1"] * 3
    assert len({one, two, three}) == 3 and one.text == three.text != two.text


def test_rollouts_differ_and_all_else_has_to_be_the_same(choices):
    first, second, third = slots(3)
    ask(first, ["A", "B", "C"], rollout_id=1)
    assert ask(second, rollout_id=2)[1] == ["B"]
    assert ask(third, ["D"], temperature=0.1) == ([{"temperature": 0.1}], ["D"])


def test_a_sample_shares_its_first_request_only(choices):
    first, second = slots(2)
    ask(first, ["A", "B"])
    assert ask(first, ["again"]) == ([{}], ["again"])
    assert ask(second, ["prompt"], messages=None) == ([{}], ["prompt"])


def test_only_those_that_can_be_paid_are_asked_for(choices):
    first, *_ = slots(3)
    assert ask(first, ["A", "B"], meter=Payer(2))[0] == [{"n": 2}]
    alone, *_ = slots(3)
    assert ask(alone, ["A"], meter=Payer(1))[0] == [{}]


def test_a_refusal_is_remembered_and_everyone_asks_alone(choices):
    lm = Model()
    first, second = slots(2)
    assert ask(first, BadRequest(), ["A"], lm=lm) == ([{"n": 2}, {}], ["A"])
    assert ask(second, ["B"], lm=lm) == ([{}], ["B"])
    assert not choices.is_expected(lm)
    assert ask(slots(2)[0], ["C"], lm=lm) == ([{}], ["C"])


def test_where_asking_alone_fails_too_it_was_not_the_choices(choices):
    lm = Model()
    with pytest.raises(BadRequest):
        ask(slots(2)[0], BadRequest(), BadRequest(), lm=lm)
    assert choices.is_expected(lm)


class Crash(Exception):
    """A server's own failure."""

    status_code = 500


def test_a_server_that_fails_on_several_choices_is_doubted(choices):
    lm = Model()
    first, second = slots(2)
    assert ask(first, Crash(), ["A"], lm=lm) == ([{"n": 2}, {}], ["A"])
    assert ask(second, ["B"], lm=lm) == ([{}], ["B"])
    assert not choices.is_expected(lm) and choices.doubted(Model())


def test_in_an_outage_one_choice_is_tried_once(choices):
    lm = Model()
    first, second, _ = slots(3)
    with pytest.raises(Crash):
        ask(first, Crash(), Crash(), lm=lm)
    assert first.failed and choices.is_expected(lm)
    with pytest.raises(Crash):
        ask(second, Crash(), lm=lm)
    assert second.failed


class Unavailable(Exception):
    status_code = 503


def test_several_choices_that_stay_unavailable_are_given_up_for_one_once_nothing_else_is_tried(choices):
    lm = Model()
    lm.num_retries = 1
    first, second = slots(2)
    with pytest.raises(Unavailable):
        ask(first, Unavailable(), lm=lm)
    assert first.failed
    assert ask(first, Unavailable(), ["A"], lm=lm) == ([{"n": 2}, {}], ["A"])
    assert ask(second, ["B"], lm=lm) == ([{}], ["B"])
    assert not choices.is_expected(lm)


class TooMuch(Exception):
    status_code = 429


def test_several_choices_that_may_be_more_than_a_rate_allows_are_given_up_by_the_second_sample(choices):
    lm = Model()
    first, second, third = slots(3)
    with pytest.raises(TooMuch):
        ask(first, TooMuch(), lm=lm)
    first.request.failed(TooMuch())
    assert ask(second, TooMuch(), ["B"], lm=lm) == ([{"n": 2}, {}], ["B"])
    assert ask(third, ["C"], lm=lm) == ([{}], ["C"])
    assert not choices.is_expected(lm)


def test_a_server_that_names_a_time_is_not_asked_before_it(choices):
    error = TooMuch()
    error.retry_after = 5.0
    first, second, _ = slots(3)
    first.request.failed(error)
    with pytest.raises(TooMuch):
        ask(second, error)
    assert second.failed


def test_what_litellm_loses_the_engine_of_its_own_is_asked_for_and_several_are_doubted(choices, monkeypatch):
    lm = Model()
    monkeypatch.setattr(shared_request, "is_retryable", lambda error: True)
    with pytest.raises(ConnectionError):
        ask(slots(2)[0], ConnectionError("reset"), lm=lm)  # it has no other way
    monkeypatch.setattr(shared_request, "is_borrowed", lambda lm, settings: True)
    first, second = slots(2)
    assert ask(first, ConnectionError("reset"), ["A"], lm=lm) == ([{"n": 2}, {}], ["A"])
    assert ask(second, ["B"], lm=lm) == ([{}], ["B"])
    assert not choices.is_expected(lm)


def test_a_busy_server_is_not_asked_again_by_another_way(choices, monkeypatch):
    class Busy(Exception):
        status_code = 429

    monkeypatch.setattr(shared_request, "is_retryable", lambda error: True)
    monkeypatch.setattr(shared_request, "is_borrowed", lambda lm, settings: True)
    with pytest.raises(Busy):
        ask(slots(2)[0], Busy())


def test_another_setting_that_is_refused_says_nothing_of_the_choices(choices):
    class NoTemperature(BadRequest):
        message = "temperature is not supported"

    lm = Model()
    first, second = slots(2)
    with pytest.raises(NoTemperature):
        ask(first, NoTemperature(), lm=lm, temperature=1.0)
    assert ask(first, ["A", "B"], lm=lm) == ([{"n": 2}], ["A"])
    assert ask(second, lm=lm) == ([], ["B"])


def test_a_server_that_gives_or_counts_one_choice_is_not_asked_for_several_again(choices):
    lm, other, meter = Model(), Model(), Payer()
    ask(slots(2)[0], ["A"], lm=lm)
    meter.miscounted = True
    ask(slots(2)[0], ["A", "B"], lm=other, meter=meter)
    assert not choices.is_expected(lm) and not choices.is_expected(other)


def test_a_request_that_fails_twice_fails_for_good(choices):
    first, *_ = slots(2)
    for _ in range(2):
        assert first.request.error is None
        with pytest.raises(ConnectionError):
            ask(first, ConnectionError("down"))
        assert first.failed
        first.request.failed(ConnectionError("down"))
    assert isinstance(first.request.error, ConnectionError)
    request = SharedRequest([])
    request.failed(LMAuthError())
    assert isinstance(request.error, LMAuthError)  # another would fail alike


def test_one_run_reads_all_choices_and_the_others_take_theirs(choices):
    signature = dspy.Signature("question -> answer")
    first, second = slots(2)
    first.together = True
    assert ask(first, ["A", "B"])[1] == ["A", "B"]
    assert first.own(signature, [{"answer": "A"}, {"answer": "B"}]) == [{"answer": "A"}]
    assert second.take() is None  # the run is not over yet
    first.share(signature, [("predictor", {"question": "q"}, "prediction")])
    prediction, [(predictor, inputs, made)] = second.take()
    assert prediction.answer == "B" and made is prediction
    assert (predictor, inputs, second.finish_reason) == ("predictor", {"question": "q"}, "length")


def test_what_was_read_by_another_signature_is_not_handed_on(choices):
    first, second = slots(2)
    first.together = True
    ask(first, ["A", "B"])
    first.own(dspy.Signature("question -> other"), [{}, {}])
    first.share(dspy.Signature("question -> answer"), [])
    assert second.take() is None


def test_choices_that_cannot_be_read_together_are_read_apart_without_a_request(choices):
    first, _ = slots(2)
    first.together = True
    ask(first, ["A", "B"])
    with pytest.raises(ReadApart):
        ask(first)  # the adapter's fallback
    assert first.read_apart() and not first.read_apart()
    assert ask(first) == ([], ["A"])


@pytest.mark.parametrize(
    ("options", "config"),
    [({"n": 2}, {}), ({}, {"n": 2}), ({"seed": 1}, {}), ({}, {"num_generations": 2}), ({"model_type": "text"}, {})],
)
def test_settings_of_the_users_own_are_not_shared_litellm(options, config, monkeypatch):
    monkeypatch.setattr(shared_request, "makes_one_request", lambda lm, settings: True)
    assert can_share(dspy.LM("openai/fake", api_key="local"), {})
    assert not can_share(dspy.LM("openai/fake", api_key="local", **options), config)
