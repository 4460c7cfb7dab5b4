import sys

import pytest
from adaptive_consistency import BetaStoppingCriteria, DirichletStoppingCriteria
from hypothesis import given, settings
from hypothesis import strategies as st

from dynscale_dspy.allocation.policies import SPRT, AdaptiveConsistency, BestOfInfinity, EarlyStopping, OrderedTally
from dynscale_dspy.allocation.tally import Tally


class TestArguments:
    @pytest.mark.parametrize(
        ("make", "message"),
        [
            (lambda: AdaptiveConsistency(threshold=1), "threshold must be between 0 and 1, got 1"),
            (lambda: EarlyStopping(window=1), "window must be an integer of at least 2, got 1"),
            (lambda: BestOfInfinity(threshold=0), "threshold must be positive, got 0"),
            (lambda: SPRT(false_alarm=0.6, miss=0.5), "false_alarm \\+ miss must be below 1, got 1.1"),
        ],
    )
    def test_out_of_range_is_refused(self, make, message):
        with pytest.raises(ValueError, match=f"^{message}"):
            make()


class TestAdaptiveConsistency:
    @settings(deadline=None, max_examples=60)
    @given(st.lists(st.sampled_from("ABCD"), min_size=1, max_size=40), st.sampled_from([0.8, 0.9, 0.95, 0.99]))
    def test_beta_decides_as_the_authors_package(self, answers, threshold):
        theirs = BetaStoppingCriteria(threshold).should_stop(answers)
        ours = AdaptiveConsistency(threshold=threshold)
        if abs(theirs["prob"] - threshold) > 1e-6:
            assert ours.stops(Tally.of(answers)) == theirs["stop"]
        assert ours.confidence(Tally.of(answers)) == pytest.approx(theirs["prob"], abs=1e-6)

    @pytest.mark.skipif(
        sys.version_info >= (3, 13),
        reason="the authors' package defines a local function by exec(), which Python 3.13 does not do, and reports -1",
    )
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
