import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynscale_dspy.allocation.evidence import TopTwo
from dynscale_dspy.allocation.policies import (
    PETS,
    PPR,
    UCB,
    BlendASC,
    KnowledgeGradient,
    LowestConfidence,
    OptimalStopping,
    OptimisticKnowledgeGradient,
    Uniform,
)
from dynscale_dspy.allocation.policies.ranking import relevance
from dynscale_dspy.allocation.tally import Tally


class TestArguments:
    @pytest.mark.parametrize(
        ("make", "message"),
        [
            (lambda: KnowledgeGradient(kappa=0), "kappa must be positive, got 0"),
            (lambda: KnowledgeGradient(prior=0), "prior must be positive, got 0"),
            (lambda: OptimalStopping(kappa=math.inf), "kappa must be positive, got inf"),
            (lambda: UCB(exploration=-1), "exploration must be at least 0, got -1"),
            (lambda: PETS(options=1), "options must be at least 2, got 1"),
            (lambda: PPR(error=0), "error must be between 0 and 1, got 0"),
            (lambda: BlendASC(horizon=0), "horizon must be positive, got 0"),
        ],
    )
    def test_out_of_range_is_refused(self, make, message):
        with pytest.raises(ValueError, match=f"^{message}"):
            make()


class TestPublishedValues:
    def test_optimistic_gain(self):
        states = {"": 0.25, "A": 0.125, "AB": 0.1875, "AA": 0.0625, "AAB": 0.125, "AABB": 0.15625, "AAAB": 0.078125}
        for answers, value in states.items():
            assert OptimisticKnowledgeGradient().index(Tally.of(answers)) == pytest.approx(value)

    def test_two_answers_make_pets_the_optimistic_gain(self):
        for answers in ("AB", "AAB", "AAABB", "AAAA"):
            tally = Tally.of(answers)
            expected = OptimisticKnowledgeGradient().index(tally)
            assert PETS(options=2).index(tally) == pytest.approx(expected, abs=1e-5)

    def test_relevance_turns_away_from_scattered_answers(self):
        for kind in (KnowledgeGradient, OptimalStopping):
            assert kind().index(Tally.of("ABCDEFGH")) < kind().index(Tally.of("AB"))

    def test_uniform_fills_up_the_least_sampled(self):
        assert Uniform().index(Tally.of("AB"), pending=2) == 0.2

    def test_least_confident_is_a_tie(self):
        assert LowestConfidence().index(Tally.of("AABB")) == pytest.approx(0.5)

    def test_entropy_of_an_even_split_is_one_or_ln_two(self):
        for uncertainty, value in (("normalized_entropy", 1.0), ("entropy", math.log(2)), ("disagreement", 0.5)):
            score, _ = UCB(uncertainty=uncertainty).terms(Tally.of("AB"))  # type: ignore[arg-type]
            assert score == pytest.approx(value)

    def test_samples_without_an_answer_are_uncertainty_for_ucb(self):
        assert UCB().terms(Tally.of([None, None]))[0] == pytest.approx(1.0)

    def test_ppr_stops_sooner_when_fewer_answers_are_possible(self):
        tally = Tally.of("A" * 9)
        assert PPR(answers=2).index(tally) == 0.0
        assert PPR(answers=100).index(tally) > 0


class TestRealWeights:
    @given(st.floats(0, 30), st.floats(0, 1), st.integers(0, 5))
    def test_top_two_rules_are_between_those_of_whole_leads(self, rival, lead, pending):
        """A lead of half a vote is worth less than a tie, and more than a lead of one."""
        for policy in (KnowledgeGradient(kappa=None), OptimisticKnowledgeGradient(), LowestConfidence()):
            tie, between, one = (
                policy.index(TopTwo(rival + ahead, rival, samples=80), pending=pending) for ahead in (0, lead, 1)
            )
            assert tie * (1 + 1e-9) >= between >= one * (1 - 1e-9)

    @given(st.lists(st.sampled_from(["A", "B", "C", None]), min_size=1, max_size=12), st.floats(0.1, 10))
    def test_uncertainty_is_of_shares_not_of_weights(self, answers, weight):
        for uncertainty in ("normalized_entropy", "entropy"):
            policy, tally = UCB(uncertainty=uncertainty), Tally()
            for answer in answers:
                tally = tally.add(answer, weight=weight)
            assert policy.terms(tally) == pytest.approx(policy.terms(Tally.of(answers)))

    @given(st.lists(st.sampled_from(["A", "B", "C", None]), max_size=20), st.integers(0, 5))
    def test_relevance_of_votes_that_count_one_is_told_by_samples(self, keys, pending):
        tally = Tally.of(keys)
        top = TopTwo(tally.lead, tally.rival, tally.samples, tally.blanks)
        assert relevance(tally, pending, 2.0) == relevance(top, pending, 2.0)
        assert KnowledgeGradient().index(tally, pending=pending) == KnowledgeGradient().index(top, pending=pending)

    def test_relevance_of_votes_with_weights_is_told_by_their_mass(self):
        tally = Tally.of("ABC").add("A", weight=4).add(None)
        assert relevance(tally, 0, kappa=2.0) == (5 + 1 + 2) / (7 + 1 + 2)
        doubled = Tally({"A": 2, "B": 2, "C": 4}, voters=4)
        assert relevance(doubled, 0, kappa=2.0) == relevance(Tally.of("AABBCCCC"), 0, kappa=2.0)

    def test_relevance_reads_weights_against_samples(self):
        assert relevance(TopTwo(lead=1.5, rival=0.5, samples=6), 0, kappa=2.0) == 0.5


@pytest.mark.parametrize("policy", [PETS(), PPR(), UCB()])
def test_a_rule_that_reads_every_answer_says_so_where_only_two_are_known(policy):
    with pytest.raises(
        TypeError,
        match=rf"^{type(policy).__name__} reads the votes of every answer, and TopTwo\(.*\) knows the two leading ones "
        r"alone: choose a policy that needs Detail.TOP_TWO, such as KnowledgeGradient\(\)$",
    ):
        policy.index(TopTwo(lead=2, rival=1, samples=3))
