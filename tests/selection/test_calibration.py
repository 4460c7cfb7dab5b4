from __future__ import annotations

from collections.abc import Hashable, Sequence
from enum import Enum

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynscale_dspy.allocation.label_means import LEAST, LabelMean, LabelMeans
from dynscale_dspy.selection.base import Share, Vote
from dynscale_dspy.selection.calibration import Calibration
from dynscale_dspy.selection.distribution import UNITS, spread
from dynscale_dspy.selection.labels import Labels

NAMES = ("red", "green", "blue")
LABELS = Labels(NAMES)
PARTS = st.tuples(st.integers(0, 1000), st.integers(0, 1000), st.integers(1, 1000))


def vote_of(parts: Sequence[float], *, is_whole: bool = True) -> Vote:
    """A vote for the most probable label."""
    said = max(range(3), key=lambda place: parts[place])
    shares = [part / sum(parts) for part in parts]
    return spread(Vote(NAMES[said], NAMES[said]), NAMES, LABELS, shares, is_whole=is_whole)


def weights_of(vote: Vote) -> dict[Hashable, float]:
    return {share.key: share.weight for share in vote.shares}


def mean_of(parts: Sequence[float], calls: int = LEAST) -> LabelMean:
    return LabelMean(NAMES, calls, tuple(calls * part / sum(parts) for part in parts))


def calibration(means: LabelMeans | None = None) -> Calibration:
    return Calibration(means or LabelMeans(), "small", LABELS, NAMES)


@given(PARTS, PARTS)
def test_each_probability_is_divided_by_its_mean(parts, mean):
    known = mean_of(mean)
    calibrated, weights = calibration().of(vote := vote_of(parts), known), known.weights
    assert weights is not None
    told = weights_of(vote)
    left = {key: told.get(key, 0.0) * weight for key, weight in zip(NAMES, weights, strict=True)}
    found = weights_of(calibrated)
    for key in NAMES:
        assert found.get(key, 0.0) == pytest.approx(left[key] / sum(left.values()), abs=2.1e-3)
    assert left[calibrated.key] == max(left.values()) and calibrated.answer == calibrated.key
    assert sum(found.values()) == 1 and calibrated.is_whole
    assert all(weight * UNITS == int(weight * UNITS) for weight in found.values())


@given(PARTS)
def test_equal_means_change_nothing(parts):
    vote = vote_of(parts)
    calibrated = calibration().of(vote, mean_of([1, 1, 1]))
    assert calibrated.key == vote.key
    assert weights_of(calibrated) == pytest.approx(weights_of(vote), abs=1e-5)


@given(PARTS, PARTS, st.permutations(range(3)))
def test_permuting_labels_permutes_the_vote(parts, mean, order):
    straight = calibration().of(vote_of(parts), mean_of(mean))
    names = [NAMES[place] for place in order]
    means = LabelMean(tuple(names), LEAST, tuple(mean_of(mean).sums[place] for place in order))
    permuted = Calibration(LabelMeans(), "small", Labels(names), names).of(vote_of(parts), means)
    assert weights_of(permuted) == pytest.approx(weights_of(straight), abs=1e-5)
    ranked = sorted(weights_of(straight).values())
    if len(ranked) == 1 or ranked[-1] - ranked[-2] > 1e-5:
        assert permuted.key == straight.key


@given(PARTS)
def test_a_call_alone_and_votes_that_are_not_whole_are_never_changed(parts):
    means = LabelMeans()
    own, vote = calibration(means), vote_of(parts)
    for _ in range(LEAST - 1):
        own.tell(vote)
        assert own.of(vote, own.mean) is vote
    partial = vote_of(parts, is_whole=False)
    assert calibration().of(partial, mean_of([9, 1, 1])) is partial
    lone = Vote("red", "red")
    assert calibration().of(lone, mean_of([9, 1, 1])) is lone


@given(PARTS)
def test_calls_that_are_all_alike_keep_a_winner_with_a_vote(parts):
    means = LabelMeans()
    own, vote = calibration(means), vote_of(parts)
    for _ in range(LEAST):
        own.tell(vote)
    calibrated = own.of(vote, own.mean)
    assert calibrated.key in NAMES and max(weights_of(calibrated).values()) == weights_of(calibrated)[calibrated.key]


@pytest.mark.parametrize("sums", [(float(LEAST), 0.0, 0.0), (0.0, 0.0, float(LEAST))])
def test_a_label_without_a_mean_breaks_nothing(sums):
    mean = LabelMean(NAMES, LEAST, sums)
    for parts in ([1, 0, 0], [0, 0, 1], [1, 1, 1], [999, 1, 0]):
        calibrated = calibration().of(vote_of(parts), mean)
        assert sum(weights_of(calibrated).values()) == 1 and calibrated.key in NAMES


def test_a_tie_is_the_sample_s_own():
    vote = vote_of([2, 1, 1])
    calibrated = calibration().of(vote, mean_of([2, 1, 1]))
    assert calibrated.key == vote.key and calibrated.answer is vote.answer
    second = spread(Vote("green", "green"), NAMES, LABELS, [0.5, 0.25, 0.25], is_whole=True)
    assert calibration().of(second, mean_of([2, 1, 1])).key == "green"


def test_labels_that_are_one_answer_share_their_mean():
    labels, keys = Labels(["Yes", "yes", "no"]), ["yes", "yes", "no"]
    means = LabelMeans()
    own = Calibration(means, "small", labels, keys)
    vote = spread(Vote("yes", "yes"), keys, labels, [0.25, 0.25, 0.5], is_whole=True)
    usual = spread(Vote("yes", "yes"), keys, labels, [0.5, 0.25, 0.25], is_whole=True)
    for _ in range(LEAST):
        own.tell(usual)
    assert own.mean.labels == ("Yes", "no")
    calibrated = own.of(vote, own.mean)
    assert weights_of(calibrated) == pytest.approx({"no": 0.75, "yes": 0.25}, abs=1e-5)
    assert calibrated.shares[0] == Share("no", "no", calibrated.shares[0].weight)


class Mood(Enum):
    GOOD = 1
    BAD = 2


def test_members_and_flags_are_known_by_their_names():
    for values in (tuple(Mood), (True, False, None)):
        labels, keys = Labels(values), list(range(len(values)))
        own = Calibration(LabelMeans(), "small", labels, keys)
        assert own.mean.labels == tuple(getattr(value, "name", str(value)) for value in values)
