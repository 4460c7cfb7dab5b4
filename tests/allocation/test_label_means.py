from __future__ import annotations

import itertools
import json
import math
import threading
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynscale_dspy.allocation.label_means import EACH, FLOOR, LEAST, MEMORY, MOST_MODELS, LabelMean, LabelMeans

UNITS = 1 << 20


def shares_of(number: int) -> st.SearchStrategy[list[float]]:
    """Distributions over so many labels, in multiples of 2**-20."""

    def read(cuts: list[int]) -> list[float]:
        ends = [0, *sorted(cuts), UNITS]
        return [(high - low) / UNITS for low, high in itertools.pairwise(ends)]

    return st.lists(st.integers(0, UNITS), min_size=number - 1, max_size=number - 1).map(read)


CALLS = st.integers(2, 6).flatmap(lambda number: st.lists(shares_of(number), min_size=1, max_size=40))


def mean_of(calls: Sequence[Sequence[float]]) -> LabelMean:
    mean = LabelMean(tuple("abcdef"[: len(calls[0])]))
    for shares in calls:
        mean = mean.with_call(shares)
    return mean


@given(CALLS, st.randoms(use_true_random=False))
def test_a_mean_does_not_depend_on_the_order_of_calls(calls, rng):
    assert mean_of(calls) == mean_of(rng.sample(calls, len(calls)))


@given(CALLS, st.randoms(use_true_random=False))
def test_permuting_labels_permutes_weights(calls, rng):
    order = rng.sample(range(len(calls[0])), len(calls[0]))
    weights = mean_of(calls * 40).weights
    permuted = mean_of([[shares[place] for place in order] for shares in calls * 40]).weights
    assert weights is not None and permuted == tuple(weights[place] for place in order)


@pytest.mark.parametrize("number", [2, 4, 8])
def test_equal_means_weigh_all_labels_alike_and_few_calls_none(number):
    mean, enough = LabelMean(tuple("abcdefgh"[:number])), max(LEAST, EACH * number)
    for _ in range(enough - 1):
        mean = mean.with_call([1 / number] * number)
        assert mean.weights is None
    assert mean.with_call([1 / number] * number).weights == (1.0,) * number


@given(CALLS)
def test_weights_are_bounded_whatever_was_told(calls):
    weights = mean_of(calls * 40).weights
    assert weights is not None and all(1 / len(calls[0]) <= weight <= 1 / FLOOR for weight in weights)


def test_a_label_that_is_never_probable_is_weighed_by_the_floor():
    assert mean_of([[1.0, 0.0]] * LEAST).weights == (0.5, 1 / FLOOR)


def test_a_program_that_changes_is_noticed():
    mean = mean_of([[0.75, 0.25]] * (MEMORY + 1))
    assert mean.calls <= MEMORY / 2 + 1 and mean.sums[0] / mean.calls == pytest.approx(0.75)
    for _ in range(2 * MEMORY):
        mean = mean.with_call([0.25, 0.75])
        assert mean.calls <= MEMORY
    assert mean.sums[0] / mean.calls < 0.4


@pytest.mark.parametrize("shares", [[], [1.0], [0.5, 0.6], [math.nan, 1.0], [-0.5, 1.5], [math.inf, 0.0], [0.0, 0.0]])
def test_what_is_no_distribution_is_not_told(shares):
    means = LabelMeans()
    means.tell("small", ("yes", "no"), shares)
    assert means.of("small", ("yes", "no")).calls == 0 and means.told() == {}


def test_other_labels_and_other_models_begin_anew():
    means = LabelMeans()
    for _ in range(3):
        means.tell("small", ("yes", "no"), [0.75, 0.25])
    means.tell("large", ("yes", "no"), [0.5, 0.5])
    assert [means.of(model, ("yes", "no")).calls for model in ("small", "large", "none")] == [3, 1, 0]
    assert means.of("small", ("no", "yes")).calls == 0
    means.tell("small", ("no", "yes"), [0.25, 0.75])
    assert means.of("small", ("no", "yes")).calls == 1 and means.of("small", ("yes", "no")).calls == 0


def test_of_many_models_the_latest_are_remembered():
    means = LabelMeans()
    for number in range(3 * MOST_MODELS):
        means.tell("first", ("yes", "no"), [0.5, 0.5])
        means.tell(f"model {number}", ("yes", "no"), [0.5, 0.5])
    assert len(means.told()) == MOST_MODELS
    assert means.of("first", ("yes", "no")).calls == 3 * MOST_MODELS


@given(CALLS)
def test_what_is_saved_is_recalled_to_the_digit(calls):
    means, later = LabelMeans(), LabelMeans()
    for shares in calls:
        means.tell("small", tuple("abcdef"[: len(shares)]), shares)
    later.recall(json.loads(json.dumps(means.told())))
    assert later.told() == means.told()


GOOD = {"labels": ["yes", "no"], "calls": 4, "sums": [3.0, 1.0]}


@pytest.mark.parametrize(
    "told",
    [
        None,
        7,
        {"m": None},
        {"m": [1]},
        {3: GOOD},
        {"m": {**GOOD, "labels": ["yes"]}},
        {"m": {**GOOD, "labels": "ab"}},
        {"m": {**GOOD, "labels": ["yes", 3]}},
        {"m": {**GOOD, "calls": 0}},
        {"m": {**GOOD, "calls": True}},
        {"m": {**GOOD, "calls": math.nan}},
        {"m": {**GOOD, "calls": 10**400}},
        {"m": {**GOOD, "sums": [math.nan, 1.0]}},
        {"m": {**GOOD, "sums": [5.0, -1.0]}},
        {"m": {**GOOD, "sums": [10**400, 1.0]}},
        {"m": {**GOOD, "sums": [3.0, 3.0]}},
        {"m": {**GOOD, "sums": ["3", "1"]}},
    ],
)
def test_what_is_no_mean_is_not_recalled(told):
    means = LabelMeans()
    means.recall(told)
    assert means.told() == {}
    means.recall({"m": GOOD})
    assert means.told() == {"m": GOOD}


def test_threads_that_tell_leave_a_mean_of_calls():
    means, labels = LabelMeans(), ("yes", "no")

    def tell() -> None:
        for _ in range(300):
            means.tell("small", labels, [0.75, 0.25])

    threads = [threading.Thread(target=tell) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    mean = means.of("small", labels)
    assert 300 <= mean.calls <= MEMORY and mean.sums == (0.75 * mean.calls, 0.25 * mean.calls)
