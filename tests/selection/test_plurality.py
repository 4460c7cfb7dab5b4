from __future__ import annotations

import copy
import math
import pickle
from collections import Counter
from fractions import Fraction
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynscale_dspy.allocation.policies import OrderedTally
from dynscale_dspy.allocation.repeats import Repeats
from dynscale_dspy.selection.answers import Record
from dynscale_dspy.selection.base import Vote
from dynscale_dspy.selection.distribution import spread
from dynscale_dspy.selection.labels import Labels
from dynscale_dspy.selection.plurality import Plurality
from dynscale_dspy.selection.similarity import EqualOutputs, TokenF1
from dynscale_dspy.selection.text import LAYERS

casts = st.lists(st.tuples(st.sampled_from(["A", "B", "C", None]), st.booleans()), max_size=12)
weights = st.floats(0.01, 100)


def select(*answers, conditioned=(), weights=None):
    """The selection of these answers, in order, None for a sample without one.

    ``conditioned`` has the indices of those that saw earlier ones.
    """
    selection = Plurality().empty()
    for i, answer in enumerate(answers):
        weight = 1.0 if weights is None else weights[i]
        selection = selection.add(vote_for(answer), sample=i, weight=weight, conditioned=i in conditioned)
    return selection


def vote_for(answer):
    return None if answer is None else Plurality().read(answer)


class TestReading:
    def test_a_vote_is_the_answer_under_its_key(self):
        vote = Plurality().read("1,000")
        assert vote is not None and vote.answer == "1,000"
        assert vote.key == Plurality().read(1000.0).key  # type: ignore[union-attr]

    @pytest.mark.parametrize("nothing", [None, "", "  "])
    def test_none_is_an_answer_and_blank_text_the_same(self, nothing):
        vote = Plurality().read(nothing)
        assert vote.answer == nothing and vote.key == Plurality().read(None).key
        assert vote.key not in {Plurality().read(other).key for other in ("None", "null", 0, False, [], {}, "nothing")}

    def test_none_wins_like_any_other_answer(self):
        selection = Plurality().empty()
        for answer in (17, None, None):
            selection = selection.add(Plurality().read(answer))
        assert selection.winner() == 1
        assert [(group.answer, group.weight) for group in selection.groups()] == [(None, 2), (17, 1)]


class TestWinner:
    def test_most_votes_win_and_the_first_sample_with_that_answer_speaks(self):
        assert select("A", "B", "B").winner() == 1

    def test_the_answer_is_compared_not_its_spelling(self):
        assert select("7", "12", "12.0").winner() == 1

    def test_of_equal_answers_the_commonest_form_speaks(self):
        assert select("**7**", "7", "7").winner() == 1
        assert select("PARIS", "Paris", "Rome", "Paris", "paris").winner() == 1
        assert select(0.1 + 0.2, 0.3, 0.3).winner() == 1
        assert select("7.0", "7").winner() == 0  # of equally common ones, the first
        assert select("7.0", "7", "7", conditioned={1, 2}).winner() == 1
        assert select("7.0", "7", conditioned={0}).winner() == 1

    def test_of_equal_records_the_commonest_form_speaks(self):
        one, other = Record(city="PARIS", year=2024), Record(city="Paris", year=2024)
        assert select(one, other, other).winner() == 1

    def test_nobody_wins_without_votes(self):
        assert select().winner() is None
        assert select(None, None).winner() is None

    def test_a_tie_goes_to_the_answer_sampled_first(self):
        assert select("A", "B").winner() == 0
        assert select(None, "B", "A", "A", "B").winner() == 1

    def test_a_tie_goes_to_more_independent_votes_first_of_all(self):
        assert select("A", "B", "B", "A", conditioned={3}).winner() == 1

    def test_a_tie_goes_to_more_conditioned_votes_if_they_are_favoured(self):
        selection = select("A", "B", "B", "A", conditioned={3})
        assert selection.winner(favour_conditioned=True) == 0

    def test_an_independent_sample_speaks_before_an_earlier_conditioned_one(self):
        assert select("A", "B", "B", conditioned={1}).winner() == 2
        assert select("A", "B", "B", conditioned={1, 2}).winner() == 1

    def test_what_counts_is_when_it_was_drawn_not_when_it_came(self):
        selector = Plurality()
        late_first = selector.empty().add(selector.read("B"), sample=1).add(selector.read("A"), sample=0)
        assert late_first.winner() == 0

    @given(casts, st.booleans())
    def test_is_the_rule_of_the_plan(self, said, favour):
        """As one would write it down over the list of samples."""
        selection = select(*(answer for answer, _ in said), conditioned={i for i, (_, c) in enumerate(said) if c})
        voters = [(i, answer, conditioned) for i, (answer, conditioned) in enumerate(said) if answer is not None]
        votes = Counter(answer for _, answer, _ in voters)
        counted = Counter(answer for _, answer, conditioned in voters if conditioned is favour)
        if not voters:
            assert selection.winner(favour_conditioned=favour) is None
            return
        _, best, _ = max(voters, key=lambda voter: (votes[voter[1]], counted[voter[1]], -voter[0]))
        speaker, _, _ = min((v for v in voters if v[1] == best), key=lambda voter: (voter[2], voter[0]))
        assert selection.winner(favour_conditioned=favour) == speaker

    @given(st.lists(st.tuples(st.sampled_from("AB"), weights), min_size=1, max_size=12), st.randoms())
    def test_sums_of_weights_do_not_depend_on_their_order(self, said, random):
        selector = Plurality()

        def tell(order):
            selection = selector.empty()
            for i in order:
                selection = selection.add(vote_for(said[i][0]), sample=i, weight=said[i][1])
            return selection

        order = list(range(len(said)))
        random.shuffle(order)
        one, other = tell(range(len(said))), tell(order)
        assert (one.winner(), one.groups(), one.is_settled(1)) == (other.winner(), other.groups(), other.is_settled(1))


class TestSettled:
    def test_a_lead_above_what_is_pending_is_safe(self):
        assert select("A", "A", "A").is_settled(2)
        assert not select("A", "A", "A").is_settled(3)  # they could tie
        assert not select("A", "A", "B").is_settled(1)

    def test_nothing_is_settled_before_anyone_votes(self):
        assert not select().is_settled(0) and not select(None).is_settled(1)

    def test_weights_count(self):
        assert select("A", "B", weights=[2.5, 1.25]).is_settled(1)
        assert not select("A", "B", weights=[2.5, 1.5]).is_settled(1)

    @given(st.lists(st.tuples(st.sampled_from("AB"), weights), max_size=12), st.integers(0, 5))
    def test_rounding_settles_nothing(self, said, pending):
        a, b = (sum(Fraction(weight) for answer, weight in said if answer == name) for name in "AB")
        selection = select(*(answer for answer, _ in said), weights=[weight for _, weight in said])
        assert selection.is_settled(pending) == (abs(a - b) > pending)

    @given(st.lists(st.sampled_from(["A", "B", "C", None]), max_size=12), st.integers(0, 5))
    def test_is_the_rule_of_the_plan(self, answers, pending):
        tally = OrderedTally.of(answers)
        assert select(*answers).is_settled(pending) == (tally.lead - tally.rival > pending)


class TestEvidence:
    @given(st.lists(st.sampled_from(["A", "B", "C", None]), max_size=12))
    def test_is_the_tally_of_the_answers_in_order(self, answers):
        keys = [vote and vote.key for vote in map(vote_for, answers)]
        evidence = select(*answers).evidence()
        assert evidence == OrderedTally.of(keys)
        assert all(isinstance(count, int) for count in evidence.counts)

    def test_weights_count_and_samples_are_samples(self):
        evidence = select("A", "B", None, "A", weights=[0.5, 1.5, 1.0, 0.75]).evidence()
        assert (evidence.lead, evidence.rival, evidence.samples, evidence.blanks) == (1.5, 1.25, 4, 1)


class TestGroups:
    def test_heaviest_first_then_the_one_sampled_first(self):
        groups = select("C", "A", "B", "B", None, "A").groups()
        assert [group.answer for group in groups] == ["A", "B", "C"]
        assert [group.samples for group in groups] == [(1, 5), (2, 3), (0,)]

    def test_the_earliest_sample_gives_the_answer(self):
        selector = Plurality()
        selection = selector.empty().add(selector.read("7.0"), sample=4).add(selector.read("7"), sample=2)
        (group,) = selection.groups()
        assert (group.answer, group.samples) == ("7", (2, 4))

    def test_the_sample_that_speaks_gives_the_answer(self):
        (group,) = select("**7**", "7", "7").groups()
        assert (group.answer, group.samples) == ("7", (0, 1, 2))

    def test_kinds_of_votes_are_told_apart(self):
        (group,) = select("A", "A", "A", conditioned={1}).groups()
        assert (group.independent, group.conditioned, group.weight) == (2, 1, 3)
        assert isinstance(group.weight, int)  # "3 votes", not "3.0 votes"

    def test_a_group_keeps_its_key_as_votes_come(self):
        before = select("A", "B")
        after = before.add(Plurality().read("B"), sample=2)
        assert {group.key for group in before.groups()} == {group.key for group in after.groups()}


class TestLayers:
    def test_a_layer_can_be_left_on(self):
        assert Plurality(without="case") == Plurality(without=["case"]) == Plurality(without=("case",))
        keys = {Plurality(without="case").read(answer).key for answer in ("Paris", "paris", "**Paris**")}  # type: ignore[union-attr]
        assert len(keys) == 2

    def test_all_layers_can_be_left_on(self):
        exact = Plurality(without=LAYERS)
        assert len({exact.read(answer).key for answer in ("42", "42.0", "**42**", "42.")}) == 4  # type: ignore[union-attr]

    @pytest.mark.parametrize("wrong", ["mood", ["case", "mood"], 5, None, [5]])
    def test_an_unknown_layer_is_refused(self, wrong):
        with pytest.raises(ValueError, match=r"^without must be names among 'unicode', 'markup', .* got "):
            Plurality(without=wrong)  # type: ignore[arg-type]

    def test_it_survives_copies_and_pickles(self):
        selector = Plurality(without="case").typed({"label": Literal["a"], "price": float})
        for other in (copy.deepcopy(selector), pickle.loads(pickle.dumps(selector))):
            assert other == selector and hash(other) == hash(selector)
            assert other.read(Record(label="A", price="3.10")) is not None


class TestMisuse:
    @pytest.mark.parametrize("weight", [0, -1.0, math.inf, math.nan])
    def test_a_weight_must_be_positive(self, weight):
        for vote in (Plurality().read("A"), None):
            with pytest.raises(ValueError, match=r"^weight must be positive, got "):
                Plurality().empty().add(vote, weight=weight)

    def test_a_vote_needs_a_key(self):
        with pytest.raises(
            ValueError, match=r"^plurality compares votes by their key, and Vote\(answer='A', key=None\)"
        ):
            Plurality().empty().add(Vote("A"))


def test_a_subclass_with_an_init_of_its_own_is_told_the_types():
    class Own(Plurality):
        def __init__(self, strength):
            super().__init__(without="case")
            object.__setattr__(self, "strength", strength)

    told = Own(3).typed({"answer": int})
    assert (type(told), told.strength, told.without) == (Own, 3, ("case",))
    assert told.read("7").key == told.read(7).key


spread_casts = st.lists(
    st.one_of(
        st.none(),
        st.tuples(st.sampled_from("ABC"), st.dictionaries(st.sampled_from("ABC"), st.integers(1, 9)), st.booleans()),
    ),
    max_size=8,
)


def spread_vote(said, shares, *, whole=False):
    """A vote for one answer, with shares in proportion to these numbers."""
    labels = Labels("ABC")
    total = sum(shares.values())
    keys = [Plurality().read(label).key for label in "ABC"]
    probabilities = [shares.get(label, 0) / total for label in "ABC"]
    return spread(Plurality().read(said), keys, labels, probabilities, is_whole=whole)


def selected(*casts, order=None):
    selection = Plurality().empty()
    for i in order if order is not None else range(len(casts)):
        if casts[i] is None:
            selection = selection.add(None, sample=i)
            continue
        said, shares, conditioned = casts[i]
        vote = spread_vote(said, shares) if shares else vote_for(said)
        selection = selection.add(vote, sample=i, conditioned=conditioned)
    return selection


class TestShares:
    def test_shares_add_up_and_one_sample_may_decide_against_two(self):
        selection = selected(("A", {"A": 9, "B": 1}, False), ("B", {"A": 2, "B": 3}, False), ("B", {"A": 2, "B": 3}, 0))
        assert selection.winner() == 0
        assert [(group.answer, group.samples) for group in selection.groups()] == [("A", (0,)), ("B", (1, 2))]
        assert [group.weight for group in selection.groups()] == pytest.approx([1.7, 1.3], abs=1e-5)
        evidence = selection.evidence()
        assert (evidence.samples, evidence.voters, evidence.is_spread, evidence.valid) == (3, 3, True, 3)
        assert evidence.confidence == pytest.approx(OrderedTally(evidence.votes, 0, voters=3).confidence)

    def test_the_winner_is_an_answer_that_a_sample_gave(self):
        selection = selected(("B", {"A": 6, "B": 3, "C": 1}, False))
        assert selection.winner() == 0
        first, second, third = selection.groups()
        assert (first.answer, first.samples) == ("A", ()) and (second.answer, second.samples) == ("B", (0,))
        assert third.samples == () and not selection.is_settled(0)
        with_a = selection.add(vote_for("A"))
        assert with_a.winner() == 1 and with_a.groups()[0].samples == (1,)

    def test_confidence_is_the_winners_probability_where_votes_are_all_that_can_be_said(self):
        selection = Plurality().empty().add(spread_vote("A", {"A": 7, "B": 2, "C": 1}, whole=True))
        assert selection.evidence().confidence == pytest.approx(0.7, abs=1e-5)
        against = Plurality().empty().add(spread_vote("B", {"A": 7, "B": 3}, whole=True))
        assert against.evidence().confidence == pytest.approx(0.3, abs=1e-5)
        assert selection.add(None).evidence().confidence == pytest.approx(0.7, abs=1e-5)
        mixed = selection.add(vote_for("A"))
        assert mixed.evidence().probability is None and mixed.evidence().confidence < 0.9

    def test_two_votes_that_are_spread_are_not_two_answers(self):
        known = Repeats()
        two = selected(("A", {"A": 9, "B": 1}, False), ("A", {"A": 8, "B": 2}, False))
        assert not two.evidence().all_single and known.promise(two.evidence()) == 1
        known.tell(selected(("A", {}, False)).evidence(), two.evidence())
        assert known.counts == (0, 0)

    @given(spread_casts, st.randoms(use_true_random=False))
    def test_order_does_not_matter(self, casts, random):
        order = list(range(len(casts)))
        random.shuffle(order)
        one, other = selected(*casts), selected(*casts, order=order)
        assert one.groups() == other.groups() and one.winner() == other.winner()
        assert one.winner(favour_conditioned=True) == other.winner(favour_conditioned=True)
        first, second = one.evidence(), other.evidence()
        assert (first.lead, first.rival, first.voters, first.confidence) == (
            second.lead,
            second.rival,
            second.voters,
            second.confidence,
        )

    @given(spread_casts)
    def test_a_winner_has_voted_and_weights_sum_to_the_votes(self, casts):
        selection = selected(*casts)
        voters = [i for i, cast in enumerate(casts) if cast is not None]
        assert selection.winner() in voters if voters else selection.winner() is None
        assert sum(group.weight for group in selection.groups()) == selection.evidence().valid == len(voters)
        assert sorted(i for group in selection.groups() for i in group.samples) == voters

    @given(spread_casts, spread_casts)
    def test_settled_means_that_nothing_can_change(self, casts, more):
        before, after = selected(*casts), selected(*casts, *more)
        if more and before.is_settled(len(more)):
            key = {i: group.key for group in after.groups() for i in group.samples}
            assert key[before.winner()] == key[after.winner()]


class TestTiesBySimilarity:
    """Of answers with as many votes the one wins that is most like all."""

    def of(self, *answers, ties=None, conditioned=()):
        selector = Plurality(ties=TokenF1() if ties is None else ties)
        selection = selector.empty()
        for i, answer in enumerate(answers):
            vote = None if answer is None else selector.read(answer)
            selection = selection.add(vote, sample=i, conditioned=i in conditioned)
        return selection

    def test_the_most_central_of_single_votes_wins(self):
        assert self.of("Rome", "Eiffel Tower", "the Eiffel Tower, Paris", None).winner() == 1

    def test_more_votes_win_whatever_is_like_what(self):
        assert self.of("a b", "b c", "a c", "x", "x").winner() == 3

    def test_pairs_are_compared_too(self):
        assert self.of("x", "x", "a b", "a b", "a c").winner() == 2

    def test_the_first_keeps_its_place_unless_another_is_more_central(self):
        assert self.of("a", "b").winner() == 0 == self.of("a b", "a c").winner()
        assert self.of("a", "b c", "c d").winner() == 1

    def test_the_weight_of_independent_votes_comes_first(self):
        selection = self.of("a", "b c", "c d", "z", conditioned={1})
        assert selection.winner() == 2 and selection.winner(favour_conditioned=True) == 1

    def test_one_that_is_like_no_other_still_votes(self):
        def fails(one, other):
            raise RuntimeError("no")

        assert self.of("a", "b", "b", ties=fails).winner() == 1 and self.of("a", "b", ties=fails).winner() == 0
        run_only_digits = EqualOutputs(run=int)
        assert self.of("one", "two", "two", ties=run_only_digits).winner() == 1

    def test_by_default_nothing_is_compared(self):
        assert Plurality().read("a").features is None and Plurality().ties is None
        assert Plurality(ties=TokenF1()) == pickle.loads(pickle.dumps(Plurality(ties=TokenF1())))
        assert repr(Plurality(ties=TokenF1())) == "Plurality(without=(), ties=TokenF1())"

    @pytest.mark.parametrize("wrong", ["TokenF1", 3, TokenF1])
    def test_what_is_no_similarity_is_refused(self, wrong):
        with pytest.raises(ValueError, match="^similarity must be"):
            Plurality(ties=wrong)

    @given(st.lists(st.sampled_from(["a b", "b c", "c", "d e", "a"]), min_size=1, max_size=7), st.randoms())
    def test_the_order_of_arrival_does_not_matter(self, answers, order):
        selector = Plurality(ties=TokenF1())
        one, other, places = selector.empty(), selector.empty(), list(range(len(answers)))
        for i in places:
            one = one.add(selector.read(answers[i]), sample=i)
        for i in order.sample(places, len(places)):
            other = other.add(selector.read(answers[i]), sample=i)
        assert one.winner() == other.winner() and one.groups() == other.groups()
        best = Counter(answers).most_common(1)[0][1]
        assert Counter(answers)[answers[one.winner()]] == best
