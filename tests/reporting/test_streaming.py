"""Finding the provider that a user streams with, and its words. tests/compat has the streams themselves."""

from __future__ import annotations

import dspy
import pytest
from dspy.streaming import StatusMessage, StatusMessageProvider
from dspy.streaming.messages import StatusStreamingCallback

from dynscale_dspy import Cost, SamplingStatus
from dynscale_dspy.reporting.explanation import Explanation, Votes
from dynscale_dspy.reporting.streaming import asking_message, status_message, status_provider

SO_FAR = Explanation((Votes("A", 2, 0), Votes("B", 1, 0)), 2 / 3, 0.7, (), 1, Cost())


def test_the_provider_is_found_among_other_callbacks():
    assert status_provider() is None
    mine = SamplingStatus()
    with dspy.context(callbacks=[StatusStreamingCallback(StatusMessageProvider()), StatusStreamingCallback(mine)]):
        assert status_provider() is mine
    with dspy.context(callbacks=[StatusStreamingCallback(StatusMessageProvider())]):
        assert status_provider() is None


@pytest.mark.parametrize("words", [None, ""])
def test_a_provider_may_say_nothing(words):
    class Silent(SamplingStatus):
        def sampling_status_message(self, explanation):
            return words

    assert status_message(Silent(), SO_FAR) is None
    assert status_message(SamplingStatus(), SO_FAR) == StatusMessage("0 samples, 2 answers, 67% agree")


def test_answers_that_are_much_alike_are_told_as_groups():
    so_far = Explanation((Votes("A", 2, 0, versions=2), Votes("B", 1, 0)), 2 / 3, 0.7, (), 1, Cost())
    words = "0 samples, 2 groups of answers, 67% like the winner"
    assert status_message(SamplingStatus(), so_far) == StatusMessage(words)


def test_what_is_asked_is_named_where_there_are_several() -> None:
    assert asking_message(SamplingStatus(), {}) is None
    assert asking_message(SamplingStatus(), {"small": 1}) == StatusMessage("asking small for 1 sample")
    words = "asking small for 4 samples and large for 1"
    assert asking_message(SamplingStatus(), {"small": 4, "large": 1}) == StatusMessage(words)


@pytest.mark.parametrize("words", [None, ""])
def test_a_provider_need_not_name_it(words):
    class Silent(SamplingStatus):
        def asking_status_message(self, models):
            return words

    assert asking_message(Silent(), {"small": 1}) is None
