"""The answer that is most like all others."""

from __future__ import annotations

import itertools
import pickle
import random
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynscale_dspy.allocation.evidence import Detail
from dynscale_dspy.allocation.policies import KnowledgeGradient
from dynscale_dspy.selection.answers import Record
from dynscale_dspy.selection.base import Selector, Vote, check_policy
from dynscale_dspy.selection.medoid import Medoid, MedoidSelection
from dynscale_dspy.selection.plurality import Plurality
from dynscale_dspy.selection.similarity import (
    CharacterF,
    ElementF1,
    Equal,
    EqualOutputs,
    Given,
    MeanOver,
    Similarity,
    TokenF1,
)
from dynscale_dspy.testing import SelectorLaws


class TestLaws(SelectorLaws):
    def selector(self) -> Selector:
        return Medoid()

    def alike(self) -> Any:
        return ("a red fox", "a red dog", "a dog", "nothing like it")


class TestLawsOfCharacters(SelectorLaws):
    def selector(self) -> Selector:
        return Medoid(CharacterF())

    def answers(self) -> Any:
        return ("abc", "def", "ghi")

    def alike(self) -> Any:
        return ("abcd", "abce", "bcde", "zz")


class TestLawsOfEquality(SelectorLaws):
    def selector(self) -> Selector:
        return Medoid(Equal())


class TestLawsOfFields(SelectorLaws):
    def selector(self) -> Selector:
        return Medoid(MeanOver({"name": TokenF1(), "tags": ElementF1()}))

    def answers(self) -> Any:
        return tuple(Record(name=name, tags=[name]) for name in ("red", "green", "blue"))

    def alike(self) -> Any:
        return tuple(Record(name=name, tags=tags) for name, tags in (("a b", [1, 2]), ("a", [2]), ("b", [1, 2, 3])))


def ahead_only(one: Any, other: Any) -> float:
    return 0.5 if one < other else 0.0  # not the same both ways round


@dataclass(frozen=True)
class Lopsided:
    """A similarity that a user got wrong: it depends on which answer comes first, and is no number for some."""

    def prepare(self, answer: Any) -> Any:
        return (answer,)

    def between(self, one: Any, other: Any) -> float:
        if "boom" in (one[0], other[0]):
            raise RuntimeError("boom")
        if one == other and one[0] in ("red", "green", "blue"):
            return 1.0
        return {"nan": float("nan"), "seven": 7.0}.get(one[0], float("abc".find(str(one[0])) >= 0) / 2)


class TestLawsOfAWrongSimilarity(SelectorLaws):
    def selector(self) -> Selector:
        return Medoid(Lopsided())

    def alike(self) -> Any:
        return ("a", "b", "nan", "seven", "boom")


def selected(similarity: Any, *answers: Any) -> MedoidSelection:
    selector = Medoid(similarity)
    selection = selector.empty()
    for answer in answers:
        selection = selection.add(selector.read(answer))
    return selection


# ---- who wins


def test_the_most_central_wins() -> None:
    answers = ("Rome", "the Eiffel Tower", "Eiffel Tower", "tower of Paris")
    assert selected(TokenF1(), *answers).winner() == 2
    assert [group.answer for group in selected(TokenF1(), *answers).groups()] == [
        *("Eiffel Tower", "the Eiffel Tower", "tower of Paris", "Rome")
    ]


def test_the_first_of_two_wins() -> None:
    assert selected(TokenF1(), "a b", "b").winner() == 0 == selected(TokenF1(), "x", "y").winner()


def test_ties_go_to_how_most_put_it() -> None:
    assert selected(TokenF1(), "Paris.", "paris", "Paris", "paris").winner() == 1
    selection = selected(TokenF1(), "Rome")
    for answer, sample, conditioned in (("Paris", 1, True), ("Paris", 2, False), ("Rome", 3, True)):
        selection = selection.add(Medoid().read(answer), sample=sample, conditioned=conditioned)
    assert selection.winner() == 0 and selection.winner(favour_conditioned=True) == 0
    selection = selection.add(Medoid().read("Paris"), conditioned=True).add(Medoid().read("Rome"))
    assert selection.winner() == 0  # two independent votes to one
    assert selection.winner(favour_conditioned=True) == 2  # and the first independent one of them speaks


words = st.lists(st.sampled_from(["red", "green", "fox", "dog", "a"]), max_size=4).map(" ".join)
weights = st.sampled_from([0.1, 0.3, 1.0, 2.5])
votes = st.lists(st.tuples(words, weights, st.booleans()), min_size=1, max_size=8)


@given(votes, st.randoms(use_true_random=False), st.sampled_from([TokenF1(), CharacterF(), Given(ahead_only)]))
def test_the_order_of_arrival_does_not_matter(said: Any, order: random.Random, similarity: Similarity) -> None:
    selector = Medoid(similarity)

    def added(places: list[int]) -> MedoidSelection:
        selection = selector.empty()
        for place in places:
            answer, weight, conditioned = said[place]
            selection = selection.add(selector.read(answer), sample=place, weight=weight, conditioned=conditioned)
        return selection

    places = list(range(len(said)))
    shuffled = order.sample(places, len(places))
    one, other = added(places), added(shuffled)
    for favour in (False, True):
        assert one.winner(favour_conditioned=favour) == other.winner(favour_conditioned=favour)
    assert one.groups() == other.groups()
    assert (one.evidence().lead, one.evidence().rival) == (other.evidence().lead, other.evidence().rival)
    assert one.evidence().gain() == pytest.approx(other.evidence().gain())


@given(votes)
def test_the_winner_is_the_one_of_greatest_similarity_to_all(said: Any) -> None:
    selection = Medoid().empty()
    for answer, weight, conditioned in said:
        selection = selection.add(Medoid().read(answer), weight=weight, conditioned=conditioned)
    f1 = TokenF1()
    made = [f1.prepare(answer) for answer, _, _ in said]
    sums = [
        sum(weight * (1 if i == j else f1.between(made[i], made[j])) for j, (_, weight, _) in enumerate(said))
        for i in range(len(said))
    ]
    winner = selection.winner()
    assert winner is not None and sums[winner] == pytest.approx(max(sums))
    assert selection.evidence().lead == pytest.approx(max(sums))


@given(votes)
def test_by_equality_it_is_plurality(said: Any) -> None:
    medoid, plurality = Medoid(Equal()).empty(), Plurality().empty()
    for answer, weight, conditioned in said:
        medoid = medoid.add(Medoid(Equal()).read(answer), weight=weight, conditioned=conditioned)
        plurality = plurality.add(Plurality().read(answer), weight=weight, conditioned=conditioned)
    for favour in (False, True):
        assert medoid.winner(favour_conditioned=favour) == plurality.winner(favour_conditioned=favour)
    assert medoid.evidence().lead == pytest.approx(plurality.evidence().lead)
    assert medoid.evidence().rival == pytest.approx(plurality.evidence().rival)
    assert [medoid.is_settled(n) for n in range(1, 5)] == [plurality.is_settled(n) for n in range(1, 5)]


# ---- whether it is settled


@pytest.mark.parametrize("similarity", [TokenF1(), Equal(), CharacterF(2)], ids=repr)
def test_settled_means_settled_whatever_comes(similarity: Similarity) -> None:
    """Answers to come may be like all at once."""
    selector, settled = Medoid(similarity), 0
    answers = ("a", "b", "a b", "c")
    for length in range(1, 5):
        for said in itertools.product(answers, repeat=length):
            selection = selected(similarity, *said)
            for pending in (1, 2):
                if not selection.is_settled(pending):
                    continue
                settled += 1
                before = next(group.key for group in selection.groups() if selection.winner() in group.samples)
                for more in itertools.product((*answers, "a b c", None), repeat=pending):
                    after = selection
                    for answer in more:
                        after = after.add(None if answer is None else selector.read(answer))
                    won = next(group.key for group in after.groups() if after.winner() in group.samples)
                    assert won == before, (said, more)
    assert (settled > 0) == (similarity == Equal())


def test_with_nothing_in_flight_it_is_settled() -> None:
    assert selected(TokenF1(), "a", "b").is_settled(0) and not Medoid().empty().is_settled(0)


# ---- what the bandit sees


def worth(*answers: Any, similarity: Any = None, pending: int = 0) -> float:
    evidence = selected(similarity or TokenF1(), *answers).evidence()
    return KnowledgeGradient().index(evidence, pending=pending)


def test_it_offers_the_two_leading_answers() -> None:
    assert Medoid().empty().evidence().detail == Detail.TOP_TWO
    check_policy(KnowledgeGradient(), Medoid())


def test_answers_that_are_equal_or_not_are_worth_about_as_much_as_votes() -> None:
    index = KnowledgeGradient().index
    states = [said for length in range(1, 7) for said in itertools.combinations_with_replacement("abcd", length)]
    for said in states:
        plurality = Plurality().empty()
        for answer in said:
            plurality = plurality.add(Plurality().read(answer))
        of_votes, of_likeness = index(plurality.evidence()), worth(*said)
        assert (of_votes == 0) == (of_likeness == 0)
        if of_votes > 1e-2:
            assert 1 / 3 < of_likeness / of_votes < 3 / 2, said


def test_two_that_are_the_same_do_not_end_a_call() -> None:
    assert worth("a", "a") == pytest.approx(
        KnowledgeGradient().index(Plurality().empty().add(Plurality().read("a")).add(Plurality().read("a")).evidence())
    )
    assert worth("a") > worth("a", "a") > worth("a", "a", "a") > 0


def test_the_more_unlike_the_leaders_the_more_a_sample_is_worth() -> None:
    assert worth("a b c d", "e f g h") > worth("a b c d", "a b g h") > worth("a b c d", "a b c h") > worth("a b", "a b")


def test_samples_in_flight_make_one_more_worth_less() -> None:
    found = [worth("a b", "c d", "a d", pending=pending) for pending in range(4)]
    assert found == sorted(found, reverse=True) and len(set(found)) == 4


def test_a_call_whose_samples_are_all_alike_is_soon_worth_little() -> None:
    common = [f"w{i}" for i in range(18)]
    answers = [" ".join([*common, f"own{i}", f"more{i}"]) for i in range(4)]  # nine tenths in common
    assert worth(*answers) < worth("a", "b", "c", "d") / 5


# ---- votes


def test_a_sample_that_cannot_be_run_casts_no_vote() -> None:
    selector = Medoid(EqualOutputs(run=lambda code: eval(code)))
    assert selector.read("1 +") is None and selector.read("1 + 1") is not None


def test_a_vote_of_another_selector_is_refused() -> None:
    with pytest.raises(ValueError, match=r"make it with read\(\)$"):
        Medoid().empty().add(Plurality().read("a"))
    with pytest.raises(ValueError, match="^weight must be positive"):
        Medoid().empty().add(Medoid().read("a"), weight=0)


def test_what_was_compared_is_kept() -> None:
    asked = []

    def counted(one: Any, other: Any) -> float:
        asked.append((one, other))
        return 0.5

    selector = Medoid(counted)
    made = [selector.read(answer) for answer in "abcd"]
    for _ in range(2):
        selection = selector.empty()
        for vote in made:
            selection = selection.add(vote)
        assert selection.winner() == 0 and selection.alike(0, 3) == 0.5 and selection.alike(0, 4) is None
    assert len(asked) == 2 * 6  # each pair once, both ways round


def test_votes_and_selectors_are_values() -> None:
    selector = Medoid()
    vote = selector.read("a red fox")
    loaded = pickle.loads(pickle.dumps(vote))
    assert vote is not None and loaded == vote and "features" not in repr(vote)
    assert Medoid().empty().add(loaded).add(selector.read("red fox")).alike(0, 1) == pytest.approx(0.8, abs=1e-6)
    assert repr(Medoid(CharacterF(3))) == "Medoid(similarity=CharacterF(order=3))"
    assert Vote("a", "k") == Vote("a", "k", features=3)


@pytest.mark.parametrize("similarity", [None, "TokenF1", TokenF1])
def test_what_is_no_similarity_is_refused(similarity: Any) -> None:
    with pytest.raises(ValueError, match="^similarity must be"):
        Medoid(similarity)


def test_types_tell_which_answers_are_the_same() -> None:
    typed = Medoid().typed({"price": float})
    assert typed.read("3.10").key == typed.read("3.1").key  # type: ignore[union-attr]
    assert Medoid().read("3.10").key != Medoid().read("3.1").key  # type: ignore[union-attr]
