"""The laws hold for the package's selectors, and a selector that breaks one fails the test named after it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest

from dynscale_dspy.allocation.evidence import Detail, TopTwo
from dynscale_dspy.selection.base import Group, Selection, Selector, Vote
from dynscale_dspy.selection.plurality import Plurality, PluralitySelection
from dynscale_dspy.selection.similarity import TokenF1
from dynscale_dspy.testing import SelectorLaws


class TestPlurality(SelectorLaws):
    def selector(self):
        return Plurality()


class TestPluralityWithTiesBySimilarity(SelectorLaws):
    def selector(self):
        return Plurality(ties=TokenF1())

    def alike(self):
        return ("a red fox", "a red dog", "a dog", "nothing like it")


class TestPluralityOfRecords(SelectorLaws):
    def selector(self):
        return Plurality()

    def answers(self):
        return ({"city": "Rome", "year": 1}, {"city": "Rome", "year": 2}, {"city": "Oslo", "year": 1}, [1, 2])


def test_it_is_said_what_to_override():
    with pytest.raises(NotImplementedError, match=r"^override selector\(\) to return the selector under test$"):
        SelectorLaws().selector()


# ---- broken selectors


@dataclass(frozen=True)
class Around:
    """A selection that does as plurality does; the broken ones change one thing."""

    inner: PluralitySelection = field(default_factory=lambda: Plurality().empty())

    def add(self, vote, *, sample=None, weight=1.0, conditioned=False):
        return replace(self, inner=self.inner.add(vote, sample=sample, weight=weight, conditioned=conditioned))

    def winner(self, *, favour_conditioned=False):
        return self.inner.winner(favour_conditioned=favour_conditioned)

    def is_settled(self, pending):
        return self.inner.is_settled(pending)

    def evidence(self):
        return self.inner.evidence()

    def groups(self):
        return self.inner.groups()


class LatestWins(Around):
    def winner(self, *, favour_conditioned=False):
        return self.inner.votes[-1].sample if self.inner.votes else None


class TheAlphabetDecides(Around):
    def winner(self, *, favour_conditioned=False):
        groups = sorted(self.groups(), key=lambda group: (-group.weight, group.answer))
        return groups[0].samples[0] if groups else None


class FirstSampleWins(Around):
    def winner(self, *, favour_conditioned=False):
        return 0 if self.inner.evidence().samples else None


class SettledTooSoon(Around):
    def is_settled(self, pending):
        evidence = self.inner.evidence()
        return evidence.lead - evidence.rival >= pending


class AlwaysSettled(Around):
    def is_settled(self, pending):
        return bool(self.inner.votes)


class BlanksAssure(Around):
    def evidence(self):
        tally = self.inner.evidence()
        lead = tally.lead + tally.blanks if tally.lead else 0
        return TopTwo(lead, tally.rival, tally.samples, tally.blanks)


class BlanksAreForgotten(Around):
    def evidence(self):
        tally = self.inner.evidence()
        return TopTwo(tally.lead, tally.rival, tally.voters, 0)


class RivalAhead(Around):
    def evidence(self):
        tally = self.inner.evidence()
        return TopTwo(tally.rival, tally.lead, tally.samples, tally.blanks)


class PromisesOrder(Around):
    def evidence(self):
        tally = self.inner.evidence()

        class Promise(TopTwo):
            detail = Detail.ORDER  # type: ignore[assignment]

        return Promise(tally.lead, tally.rival, tally.samples, tally.blanks)


class WeightsPlusOne(Around):
    def add(self, vote, *, sample=None, weight=1.0, conditioned=False):
        return super().add(vote, sample=sample, weight=weight + 1, conditioned=conditioned)


class GroupsAsTheyCame(Around):
    def groups(self):
        return sorted(self.inner.groups(), key=lambda group: self.inner.votes[-1].sample in group.samples)


class OneGroupTooFew(Around):
    def groups(self):
        return self.inner.groups()[:1]


class NumbersVotersOnly(Around):
    def add(self, vote, *, sample=None, weight=1.0, conditioned=False):
        number = self.inner.tally.voters if sample is None else sample
        return super().add(vote, sample=number, weight=weight, conditioned=conditioned)


class Mutable:
    """Adds in place."""

    def __init__(self) -> None:
        self.inner = Plurality().empty()

    def add(self, vote, *, sample=None, weight=1.0, conditioned=False):
        self.inner = self.inner.add(vote, sample=sample, weight=weight, conditioned=conditioned)
        return self

    winner, is_settled, evidence, groups = Around.winner, Around.is_settled, Around.evidence, Around.groups


class ReadsNoneAsNothing(Plurality):
    def read(self, answer):
        return None if answer is None else super().read(answer)


class ReadsNoneAsRed(Plurality):
    def read(self, answer):
        return Vote(answer, answer or "red")


class ReadsByTurns(Plurality):
    turns = 0

    def read(self, answer):
        ReadsByTurns.turns += 1
        return None if answer is None else Vote(answer, (answer, ReadsByTurns.turns))


def laws(selection: type | None = None, selector: Selector | None = None) -> SelectorLaws:
    class Of(Plurality):
        def empty(self):
            assert selection is not None
            return selection()

    class Laws(SelectorLaws):
        def selector(self):
            return selector or Of()

    return Laws()


@pytest.mark.parametrize(
    ("law", "broken"),
    [
        ("order_of_adding_does_not_matter", LatestWins),
        ("names_of_answers_do_not_matter", TheAlphabetDecides),
        ("the_winner_is_a_sample_that_voted", FirstSampleWins),
        ("nothing_wins_before_the_first_vote", FirstSampleWins),
        ("settled_means_that_nothing_can_change", SettledTooSoon),
        ("enough_samples_can_change_anything", AlwaysSettled),
        ("blanks_change_neither_winner_nor_groups", BlanksAssure),
        ("blanks_change_neither_winner_nor_groups", BlanksAreForgotten),
        ("evidence_is_within_bounds", RivalAhead),
        ("evidence_is_within_bounds", BlanksAreForgotten),
        ("evidence_offers_the_detail_it_says", PromisesOrder),
        ("scaling_all_weights_changes_no_result", WeightsPlusOne),
        ("groups_are_the_voters", GroupsAsTheyCame),
        ("groups_are_the_voters", OneGroupTooFew),
        ("samples_are_numbered_as_they_are_added", NumbersVotersOnly),
        ("adding_leaves_the_old_selection_as_it_was", Mutable),
    ],
)
def test_a_broken_selection_fails_the_law(law: str, broken: type):
    with pytest.raises(AssertionError):
        getattr(laws(broken), f"test_{law}")()


def test_a_selector_for_which_none_is_no_answer_fails():
    with pytest.raises(AssertionError, match="None casts no vote"):
        laws(selector=ReadsNoneAsNothing()).test_none_is_an_answer()


def test_a_selector_that_takes_none_for_another_answer_fails():
    with pytest.raises(AssertionError, match="None is taken for another answer"):
        laws(selector=ReadsNoneAsRed()).test_none_is_an_answer()


def test_a_selector_that_does_not_read_the_same_twice_fails():
    with pytest.raises(AssertionError):
        laws(selector=ReadsByTurns()).test_reading_is_repeatable()


def test_the_wrapper_of_the_broken_ones_is_not_broken_itself():
    kept = laws(Around)
    for name in dir(SelectorLaws):
        if name.startswith("test_") and name != "test_reading_is_repeatable":  # a class of a function is not pickled
            getattr(kept, name)()


def test_the_contracts_are_checked_at_run_time():
    assert isinstance(Plurality(), Selector) and isinstance(Plurality().empty(), Selection)
    assert Group("a", "a", 1, 0.5, (0, 1)).weight == 1.5
