"""Groups of what is much alike, and where they are the selection's own."""

from __future__ import annotations

import itertools
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynscale_dspy.selection import (
    Average,
    ElementF1,
    ElementVote,
    Equal,
    Fieldwise,
    Judge,
    Medoid,
    Numbers,
    Plurality,
    TokenF1,
)
from dynscale_dspy.selection.groups import AlikeGroup, groups_of, likened, say_the_same, speakers_of
from dynscale_dspy.selection.similarity import similarity_of

SUMMARIES = (
    "the council voted for the new bridge",
    "the council voted for the new bridge on Monday",
    "rain is expected",
    "on Monday the council voted for the new bridge",
    "rain is expected today",
    "The council voted for the new bridge.",
    None,
)


def selection_of(selector: Any, answers: Any, *, conditioned: Any = (), weights: Any = None) -> Any:
    selection = selector.empty()
    for place, answer in enumerate(answers):
        vote = None if answer is None else selector.read(answer)
        weight = 1.0 if weights is None else weights[place]
        selection = selection.add(vote, sample=place, weight=weight, conditioned=place in conditioned)
    return selection


def test_what_is_much_alike_is_one_group_told_by_its_most_central_answer() -> None:
    bridge, rain = groups_of(selection_of(Medoid(), SUMMARIES, conditioned={3}))
    assert isinstance(bridge, AlikeGroup) and isinstance(rain, AlikeGroup)
    assert bridge.answer == SUMMARIES[0] and bridge.key == Medoid().read(SUMMARIES[0]).key  # type: ignore[union-attr]
    assert bridge.samples == (0, 1, 3, 5) and bridge.speakers == (0, 5) and bridge.versions == 3
    assert (bridge.independent, bridge.conditioned, bridge.weight) == (3, 1, 4)
    assert rain.samples == (2, 4) and rain.versions == 2


def test_the_heaviest_comes_first_though_another_is_more_central() -> None:
    groups = groups_of(selection_of(Medoid(), ("a b c d", "a b c d", "x y"), weights=(0.5, 0.5, 3.0)))
    assert [group.answer for group in groups] == ["x y", "a b c d"]


def test_records_are_one_where_more_than_half_is_the_same() -> None:
    records = ({"a": 1, "b": 2, "c": 3}, {"a": 1, "b": 2, "c": 4}, {"a": 1, "b": 7, "c": 8}, {"a": 1, "b": 2, "c": 3})
    for selector in (Fieldwise(), Fieldwise(compose=True)):
        assert [group.samples for group in groups_of(selection_of(selector, records))] == [(0, 1, 3), (2,)]


def test_half_equality_halves_what_is_much() -> None:
    """Two lists that differ can be half alike at most, where equality is half of it."""
    lists = (["a", "b"], ["b", "a"], ["a", "b", "c"], ["c", "d"])
    expected = [(0, 1, 2), (3,)]
    for selector in (Medoid(Average((Equal(), ElementF1()))), Medoid(ElementF1()), ElementVote()):
        assert [group.samples for group in groups_of(selection_of(selector, lists))] == expected


def test_a_selection_without_likeness_has_its_own_groups() -> None:
    answers = ("12", "7", "12.0", "8", None)
    for selector in (Plurality(), Plurality(ties=TokenF1()), Numbers(), Numbers(tolerance=1), Judge()):
        selection = selection_of(selector, answers)
        assert likened(selection) is None and groups_of(selection) == selection.groups()
        assert all(speakers_of(group) == group.samples for group in groups_of(selection))
    assert not groups_of(Plurality().empty()) and not groups_of(Medoid().empty())


@given(
    st.lists(st.sampled_from(["a", "b", "a b", "a b c", "b c d", "x", None]), max_size=9),
    st.sampled_from([Medoid(), Medoid(Equal()), Medoid(similarity_of(lambda one, other: 0.4)), Fieldwise()]),
    st.data(),
)
def test_groups_hold_every_voter_once_and_depend_on_no_order(answers: Any, selector: Any, data: Any) -> None:
    weights = [data.draw(st.sampled_from([1.0, 0.25, 3.0])) for _ in answers]
    selection = selection_of(selector, answers, weights=weights)
    groups = groups_of(selection)
    voters = [place for place, answer in enumerate(answers) if answer is not None]
    assert sorted(itertools.chain(*(group.samples for group in groups))) == voters
    assert len({group.key for group in groups}) == len(groups)
    assert [group.weight for group in groups] == sorted((group.weight for group in groups), reverse=True)
    assert sum(Fraction(group.weight) for group in groups) == sum(Fraction(weights[place]) for place in voters)
    assert all(set(speakers_of(group)) <= set(group.samples) for group in groups)
    order = data.draw(st.permutations(range(len(answers))))
    other = selector.empty()
    for place in order:
        vote = None if answers[place] is None else selector.read(answers[place])
        other = other.add(vote, sample=place, weight=weights[place])
    assert [group.samples for group in groups_of(other)] == [group.samples for group in groups]


def test_equality_as_a_similarity_is_equality() -> None:
    answers = ("a", "b", "a", "c", "b", "a")
    equal = groups_of(selection_of(Medoid(Equal()), answers))
    assert [group.samples for group in equal] == [g.samples for g in selection_of(Plurality(), answers).groups()]


@pytest.mark.parametrize(
    ("selector", "one", "other", "same"),
    [
        (Plurality(), "7", "7.0", True),
        (Plurality(), "7", "8", False),
        (Numbers(tolerance=1), 7, 8, True),
        (Medoid(), SUMMARIES[0], SUMMARIES[1], True),
        (Medoid(), SUMMARIES[0], SUMMARIES[2], False),
        (Judge(), "7", "8", False),
    ],
)
def test_two_votes_say_the_same_if_they_would_be_one_group(selector: Any, one: Any, other: Any, same: bool) -> None:
    first, second = selector.read(one), selector.read(other)
    assert say_the_same(selector, first, second) is say_the_same(selector, second, first) is same
    assert not say_the_same(selector, first, None) and say_the_same(selector, None, None)
