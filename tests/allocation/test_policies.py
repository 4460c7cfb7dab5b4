import math

import pytest
from adaptive_consistency import BetaStoppingCriteria, DirichletStoppingCriteria
from hypothesis import given, settings
from hypothesis import strategies as st

from dynscale_dspy.allocation.policies import (
    PETS,
    POLICIES,
    PPR,
    SPRT,
    UCB,
    AdaptiveConsistency,
    BestOfInfinity,
    BlendASC,
    EarlyStopping,
    KnowledgeGradient,
    LowestConfidence,
    OptimalStopping,
    OptimisticKnowledgeGradient,
    OrderedTally,
    Policy,
    Uniform,
    make_policy,
)
from dynscale_dspy.allocation.tally import Tally
from dynscale_dspy.testing.policies import PolicyLaws

VARIANTS = [
    *POLICIES,
    "optimistic_knowledge_gradient:kappa=2",
    "ucb:uncertainty=entropy",
    "ucb:uncertainty=disagreement:first=1",
    "adaptive_consistency:criterion=dirichlet",
    "pets:options=4",
    "ppr:answers=4",
    "early_stopping:window=3",
    "sprt:concentration=1e6:miss=0.94",
    "knowledge_gradient:first=4",
    "knowledge_gradient:kappa=None:prior=3",
]


class TestEveryPolicy(PolicyLaws):
    @pytest.fixture(autouse=True, params=VARIANTS)
    def _choose(self, request):
        self.spec = request.param

    def policy(self):
        return make_policy(self.spec)


def test_registry_holds_every_policy_of_the_package():
    from dynscale_dspy.allocation import policies

    concrete = {
        value
        for value in vars(policies).values()
        if isinstance(value, type) and issubclass(value, Policy) and not value.__abstractmethods__
    }
    assert set(POLICIES.values()) == concrete


class TestMakePolicy:
    def test_settings_follow_the_name(self):
        assert make_policy("ucb:exploration=0.1:uncertainty=entropy") == UCB(exploration=0.1, uncertainty="entropy")

    def test_unknown_name_is_refused_with_the_known_ones(self):
        with pytest.raises(ValueError, match=r"^unknown policy 'usb': choose from adaptive_consistency, best_of"):
            make_policy("usb")

    def test_unknown_setting_is_refused(self):
        with pytest.raises(ValueError, match=r"^policy 'ucb:speed=3': .*unexpected keyword argument 'speed'$"):
            make_policy("ucb:speed=3")

    def test_setting_without_value_is_refused(self):
        with pytest.raises(ValueError, match=r"^policy 'ucb:fast': write settings as key=value, got 'fast'$"):
            make_policy("ucb:fast")


class TestArguments:
    @pytest.mark.parametrize("kind", POLICIES.values())
    def test_first_must_be_a_positive_integer(self, kind):
        for first in (0, -1, 1.5, True):
            with pytest.raises(ValueError, match=r"^first must be an integer of at least 1, got"):
                kind(first=first)

    @pytest.mark.parametrize(
        ("make", "message"),
        [
            (lambda: KnowledgeGradient(kappa=0), "kappa must be positive, got 0"),
            (lambda: KnowledgeGradient(prior=0), "prior must be positive, got 0"),
            (lambda: OptimalStopping(kappa=math.inf), "kappa must be positive, got inf"),
            (lambda: UCB(exploration=-1), "exploration must be at least 0, got -1"),
            (lambda: AdaptiveConsistency(threshold=1), "threshold must be between 0 and 1, got 1"),
            (lambda: EarlyStopping(window=1), "window must be an integer of at least 2, got 1"),
            (lambda: BestOfInfinity(threshold=0), "threshold must be positive, got 0"),
            (lambda: SPRT(false_alarm=0.6, miss=0.5), "false_alarm \\+ miss must be below 1, got 1.1"),
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


class TestAdaptiveConsistency:
    @settings(deadline=None, max_examples=60)
    @given(st.lists(st.sampled_from("ABCD"), min_size=1, max_size=40), st.sampled_from([0.8, 0.9, 0.95, 0.99]))
    def test_beta_decides_as_the_authors_package(self, answers, threshold):
        theirs = BetaStoppingCriteria(threshold).should_stop(answers)
        ours = AdaptiveConsistency(threshold=threshold)
        if abs(theirs["prob"] - threshold) > 1e-6:
            assert ours.stops(Tally.of(answers)) == theirs["stop"]
        assert ours.confidence(Tally.of(answers)) == pytest.approx(theirs["prob"], abs=1e-6)

    @pytest.mark.parametrize("answers", ["AABC", "AAAABBC", "AAAAABC", "AAABBBC", "AAAAAAABC", "AAAAAAABCD"])
    def test_dirichlet_decides_as_the_authors_package(self, answers):
        ours = AdaptiveConsistency(criterion="dirichlet")
        confidence = ours.confidence(Tally.of(answers))
        # Their default, Monte Carlo, fails under current NumPy and reports -1; their nested integral works.
        theirs = DirichletStoppingCriteria(0.95, use_markov=False).should_stop(list(answers))
        assert confidence == pytest.approx(theirs["prob"], abs=1e-3)
        assert ours.stops(Tally.of(answers)) == theirs["stop"]

    def test_failed_samples_do_not_count(self):
        rule = AdaptiveConsistency()
        assert rule.confidence(Tally.of(["A", None, "A", None])) == rule.confidence(Tally.of("AA"))


class TestEarlyStopping:
    def test_stops_at_the_first_unanimous_window(self):
        rule = EarlyStopping(window=3)
        steps = [rule.index(OrderedTally.of("ABBBBBAAA"[:n])) > 0 for n in range(10)]
        assert steps == [True, True, True, True, True, True, False, True, True, False]

    def test_a_run_across_windows_is_no_window(self):
        assert EarlyStopping(window=3).index(OrderedTally.of("ABBBAB")) > 0

    def test_a_failed_sample_spoils_its_window(self):
        assert EarlyStopping(window=3).index(OrderedTally.of(["A", None, "A"])) > 0

    def test_asks_for_one_window_at_a_time(self):
        rule = EarlyStopping(window=5)
        assert [rule.index(Tally(), pending=k) > 0 for k in range(7)] == [True] * 5 + [False, True]

    @given(st.lists(st.sampled_from(["A", "B", None]), min_size=1, max_size=30))
    def test_counts_alone_never_stop_before_some_window_was_unanimous(self, answers):
        rule = EarlyStopping(window=3)
        if rule.stops(Tally.of(answers)):
            windows = [answers[i : i + 3] for i in range(0, len(answers), 3)]
            assert any(len(set(window)) == 1 and window[0] is not None for window in windows)


class TestOtherStops:
    def test_bayes_factor_is_one_on_a_tie(self):
        assert BestOfInfinity().bayes_factor(Tally.of("AABB")) == 1.0

    def test_bayes_factor_grows_with_agreement(self):
        factors = [BestOfInfinity().bayes_factor(Tally.of("A" * n)) for n in range(1, 9)]
        assert factors == sorted(factors) and factors[-1] > 100

    def test_sprt_gives_up_on_a_tie(self):
        assert SPRT(miss=0.3).index(Tally.of("AB" * 20)) == 0.0

    def test_sprt_accepts_a_clear_leader(self):
        # ratio of Beta(1, 1) above one half: 2 * 2^n / (n + 1) * h(n, 0), at the boundary 19 from n = 6
        assert [SPRT().stops(Tally.of("A" * n)) for n in (5, 6, 7)] == [False, False, True]

    def test_samples_in_flight_that_would_settle_it_are_waited_for(self):
        assert AdaptiveConsistency().index(Tally.of("AA"), pending=2) == 0.0


class TestOrderedTally:
    def test_adding_keeps_the_streak(self):
        tally = OrderedTally.of("AAB").add("B")
        assert (tally.streak, tally.latest, tally.leader) == (2, "B", 2)

    def test_a_failed_sample_ends_the_streak(self):
        assert OrderedTally.of(["A", None, "A"]).streak == 1

    def test_is_a_tally(self):
        assert OrderedTally.of("AAB").counts == Tally.of("AAB").counts
