"""What requests give up, without a server. Over the wire: tests/transport/test_refused_settings.py."""

from __future__ import annotations

import logging

import pytest

from dynscale_dspy.execution import concessions
from dynscale_dspy.execution.capabilities import Refusals
from dynscale_dspy.execution.concessions import Concessions, is_unproven


class Model:
    """What findings are kept for."""

    def __init__(self, **kwargs):
        self.model, self.kwargs = "fake/model", kwargs


class Refused(Exception):
    """A server's refusal."""

    def __init__(self, message, status=400):
        super().__init__(message)
        self.status_code, self.message = status, message


@pytest.fixture(autouse=True)
def refusals(monkeypatch):
    """Findings of this test alone."""
    found = Refusals()
    monkeypatch.setattr(concessions, "REFUSALS", found)
    return found


def test_nothing_is_given_up_without_a_reason():
    made = Concessions(Model(temperature=None))
    assert made.applied({"temperature": 1.0, "stop": "x"}, {"temperature"}) == {"temperature": 1.0, "stop": "x"}
    assert not made.after(ConnectionError("down")) and not made.after(Refused("the messages are odd"))
    assert made.applied({"temperature": 1.0}) == {"temperature": 1.0}


def test_what_is_refused_is_left_out_and_known_to_the_next_once_that_has_helped():
    lm = Model()
    made = Concessions(lm)
    made.applied({"temperature": 1.0}, {"temperature"})
    assert made.after(Refused("no temperature here"))
    assert made.applied({"temperature": 1.0}, {"temperature"}) == {}
    assert Concessions(lm).applied({"temperature": 1.0}) == {"temperature": 1.0}  # it may not have been that
    assert not made.after(Refused("no temperature here"))  # it was not
    made.confirmed()
    assert Concessions(lm).applied({"temperature": 1.0}) == {}


def test_a_setting_of_the_language_models_own_is_set_to_none():
    made = Concessions(Model(seed=3, logprobs=True, top_logprobs=2, top_p=0.5))
    assert made.applied({"seed": 4}) == {"seed": 4}
    assert made.after(Refused("seed and logprobs are not supported"))
    assert made.applied({"seed": 4}) == {"seed": None, "logprobs": None, "top_logprobs": None}


def test_only_what_was_sent_can_be_refused():
    made = Concessions(Model())
    made.applied({"stop": "x"})
    assert not made.after(Refused("no temperature here"))


def test_a_value_out_of_range_is_given_up_only_if_the_user_did_not_choose_it():
    error = Refused("temperature must be between 0 and 1")
    for ours, given_up in [(set(), False), ({"temperature"}, True)]:
        made = Concessions(Model())
        made.applied({"temperature": 2.0}, ours)
        assert made.after(error) is given_up


def test_a_refusal_that_says_nothing_is_tried_with_what_the_user_did_not_ask_for_first():
    made = Concessions(Model(seed=3))
    assert made.applied({"temperature": 1.0, "rollout_id": 2}, {"temperature", "rollout_id"}) is not None
    assert made.after(Refused(""))
    assert made.applied({"temperature": 1.0, "rollout_id": 2}, {"temperature", "rollout_id"}) == {"rollout_id": 2}
    assert made.after(Refused(""))
    assert made.applied({"temperature": 1.0}, {"temperature"}) == {"seed": None}
    assert not made.after(Refused(""))


def test_a_reason_that_is_not_known_is_tried_with_what_the_user_did_not_ask_for_only():
    made = Concessions(Model(seed=3))
    made.applied({"temperature": 1.0}, {"temperature"})
    assert made.after(Refused("the moon is full"))
    made.applied({"temperature": 1.0}, {"temperature"})
    assert not made.after(Refused("the moon is full"))


def test_what_was_answered_before_is_not_suspected():
    lm = Model()
    first = Concessions(lm)
    first.applied({"temperature": 1.0}, {"temperature"})
    first.confirmed()
    second = Concessions(lm)
    second.applied({"temperature": 1.0}, {"temperature"})
    assert not second.after(Refused(""))
    assert second.after(Refused("no temperature beside that"))  # unless it is named


def test_who_asked_for_a_setting_is_told_once_that_it_has_no_effect(caplog):
    caplog.set_level(logging.DEBUG, "dynscale_dspy")
    lm = Model(seed=3)
    for _ in range(2):
        made = Concessions(lm)
        made.applied({"temperature": 1.0}, {"temperature"})
        made.after(Refused("neither temperature nor seed are supported"))
        made.applied({"temperature": 1.0}, {"temperature"})
        made.confirmed()
    assert sorted((record.levelname, record.getMessage()) for record in caplog.records) == [
        ("DEBUG", "fake/model does not take temperature: it is asked without from now on"),
        ("WARNING", "fake/model does not take seed: it is asked without from now on"),
    ]


def test_what_could_not_be_tried_for_want_of_budget_is_kept_if_the_server_named_it():
    for message, kept in [("no temperature here", {}), ("", {"temperature": 1.0})]:
        lm = Model()
        made = Concessions(lm)
        made.cut_off()
        made.applied({"temperature": 1.0}, {"temperature"})
        assert made.after(Refused(message))
        made.cut_off()
        assert Concessions(lm).applied({"temperature": 1.0}) == kept


def test_a_temperature_is_unproven_until_it_was_taken_or_refused(refusals):
    lm, other = Model(), Model()
    assert is_unproven(lm, {}) and is_unproven(Model(temperature=0.0), {})
    assert not is_unproven(None, {}) and not is_unproven(lm, {"temperature": 0.5})
    assert not is_unproven(Model(temperature=0.5), {})
    refusals.took(lm, ["temperature"])
    refusals.found(other, {"temperature": frozenset()})
    assert not is_unproven(lm, {}) and not is_unproven(other, {})


def test_a_greedy_sample_gives_up_its_temperature_of_0_before_any_other(refusals):
    lm = Model()
    made = Concessions(lm)
    made.applied({"temperature": 0.0}, {"temperature"})
    assert made.may_be_greedy and made.after(Refused("temperature must be strictly positive"))
    assert not made.may_be_greedy
    assert made.applied({"temperature": 0.7}) == {"temperature": 0.7}
    made.confirmed()
    assert not Concessions(lm).may_be_greedy and refusals.of(lm, {"temperature": 0.7}) == frozenset()


@pytest.mark.parametrize("words", ["unsupported parameter: temperature", "temperature is deprecated for this model"])
def test_a_temperature_that_is_refused_whatever_it_is_goes_at_once(words):
    made = Concessions(Model())
    made.applied({"temperature": 0.0}, {"temperature"})
    assert made.after(Refused(words)) and made.may_be_greedy
    assert made.applied({"temperature": 1.0}, {"temperature"}) == {}


def test_a_temperature_of_0_that_is_the_users_own_is_theirs():
    made = Concessions(Model(temperature=0))
    made.applied({})
    assert not made.after(Refused("temperature must be strictly positive"))
