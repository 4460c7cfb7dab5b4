import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.special import betaln, gammaln

from dynscale_dspy.allocation import tables
from dynscale_dspy.allocation.tables import (
    HORIZON,
    knowledge_gains,
    knowledge_gradient,
    leader_confidence,
    mode_probability,
    optimistic_gain,
    stopping_index,
    tie_density,
)

votes = st.tuples(st.integers(0, 60), st.integers(0, 60)).map(lambda pair: (max(pair), min(pair)))
real_votes = st.tuples(st.floats(0, 40), st.floats(0, 40)).map(lambda pair: (max(pair), min(pair)))
steps = st.floats(0, 1)


class TestConfidence:
    def test_published_values(self):
        assert [round(leader_confidence(a, b), 4) for a, b in ((0, 0), (1, 0), (3, 1), (7, 2))] == [
            0.5,
            0.75,
            0.8125,
            0.9453,
        ]

    @given(votes)
    def test_is_a_binomial_tail(self, state):
        a, b = state
        tail = sum(math.comb(a + b + 1, k) for k in range(a + 1)) / 2 ** (a + b + 1)
        assert leader_confidence(a, b) == pytest.approx(tail, rel=1e-12)

    @given(votes)
    def test_swapping_the_answers_gives_the_complement(self, state):
        a, b = state
        assert leader_confidence(a, b) + leader_confidence(b, a) == pytest.approx(1)

    def test_is_a_martingale(self):
        a, b = 5, 3
        p = (a + 1) / (a + b + 2)
        ahead = p * leader_confidence(a + 1, b) + (1 - p) * leader_confidence(a, b + 1)
        assert ahead == pytest.approx(leader_confidence(a, b))


class TestOptimisticGain:
    @given(votes)
    def test_is_the_difference_of_confidences(self, state):
        a, b = state
        assert optimistic_gain(a, b) == pytest.approx(leader_confidence(a + 1, b) - leader_confidence(a, b), abs=1e-12)

    def test_large_counts_do_not_overflow(self):
        assert 0 < tie_density(10**6, 10**6) < math.inf
        assert tie_density(10**6, 0) == 0.0


class TestKnowledgeGradient:
    def test_published_values(self):
        states = {(1, 0): 0.0312, (1, 1): 0.1875, (2, 0): 0.0055, (2, 1): 0.0312, (2, 2): 0.1562, (4, 0): 0.0004}
        for state, value in states.items():
            assert knowledge_gradient(*state) == pytest.approx(value, abs=6e-5)

    @settings(max_examples=30, deadline=None)
    @given(votes)
    def test_gains_are_expectations_over_beta_binomial_outcomes(self, state):
        a, b = state
        gains = knowledge_gains(a, b)
        value = lambda a, b: max(leader_confidence(a, b), leader_confidence(b, a))  # noqa: E731
        for k in (1, 2, 5, 17, HORIZON):
            j = np.arange(k + 1)
            log_p = gammaln(k + 1) - gammaln(j + 1) - gammaln(k - j + 1) + betaln(a + 1 + j, b + 1 + k - j)
            chances = np.exp(log_p - betaln(a + 1, b + 1))
            expected = sum(p * value(a + i, b + k - i) for p, i in zip(chances, range(k + 1), strict=True))
            assert gains[k] == pytest.approx(expected - value(a, b), abs=1e-10)

    @given(votes)
    def test_no_gain_before_the_lead_can_change(self, state):
        a, b = state
        gains = knowledge_gains(a, b)
        assert not gains[: min(a - b, HORIZON) + 1].any()
        assert (np.diff(gains) >= 0).all()

    @given(votes, st.sampled_from([0.5, 1.0, 3.0]))
    def test_table_agrees_with_single_states(self, state, prior):
        assert knowledge_gradient(*state, prior) == pytest.approx(
            tables._knowledge_of_state(*state, prior), rel=1e-9, abs=1e-300
        )

    @given(votes)
    def test_votes_had_before_count_like_votes(self, state):
        a, b = state
        assert knowledge_gradient(a, b, prior=3.0) == pytest.approx(knowledge_gradient(a + 2, b + 2), rel=1e-9)

    def test_small_gains_keep_their_precision(self):
        # (20, 0) takes 21 votes to change: a gain of order 1e-14 that subtracting probabilities would drown
        assert 0 < knowledge_gradient(20, 0) < knowledge_gradient(19, 0) < 1e-9

    def test_beyond_the_table_there_is_no_seam(self):
        a = tables._TABLE
        inside, outside = knowledge_gradient(a, a - 3), knowledge_gradient(a + 1, a - 2)
        assert outside == pytest.approx(inside, rel=0.05)
        assert outside < inside


class TestStoppingIndex:
    def test_known_values(self):
        states = {(1, 0): 0.047, (2, 0): 0.0164, (2, 1): 0.0446, (2, 2): 0.15625, (3, 0): 0.007, (4, 0): 0.0035}
        for state, value in states.items():
            assert stopping_index(*state) == pytest.approx(value, rel=0.04)

    @given(votes)
    def test_is_at_least_the_knowledge_gradient(self, state):
        assert stopping_index(*state) >= knowledge_gradient(*state) * (1 - 1e-9)

    @given(st.integers(0, 40), st.integers(1, 40))
    def test_falls_with_the_lead(self, b, lead):
        assert stopping_index(b + lead, b) <= stopping_index(b + lead - 1, b)

    def test_at_a_tie_one_vote_decides(self):
        for n in (0, 1, 5, 30):
            assert stopping_index(n, n) >= leader_confidence(n + 1, n) - 0.5 - 1e-12


class TestModeProbability:
    def test_two_answers_make_it_the_confidence(self):
        for a, b in ((0, 0), (1, 0), (3, 1), (9, 4)):
            assert mode_probability((a + 1, b + 1)) == pytest.approx(leader_confidence(a, b), abs=1e-5)

    @pytest.mark.parametrize("alpha", [(3, 1, 1), (8, 3, 2, 1, 0.3), (5, 5, 1), (20, 15, 4, 4)])
    def test_agrees_with_random_draws(self, alpha):
        draws = np.random.default_rng(0).dirichlet(alpha, 200_000)
        assert mode_probability(alpha) == pytest.approx((draws.argmax(axis=1) == 0).mean(), abs=0.005)

    def test_chances_of_all_answers_sum_to_one(self):
        alpha = (4.0, 2.0, 1.0)
        turned = [(alpha[i], *alpha[:i], *alpha[i + 1 :]) for i in range(3)]
        assert sum(mode_probability(turn) for turn in turned) == pytest.approx(1, abs=1e-5)

    def test_order_of_the_others_does_not_matter(self):
        assert mode_probability((4, 3, 1, 1)) == mode_probability((4, 1, 1, 3))


def by_integral(a, b):
    """P(p > 1/2) of Beta(a + 1, b + 1), by quadrature."""
    density = lambda p: math.exp(a * math.log(p) + b * math.log1p(-p) - betaln(a + 1, b + 1))  # noqa: E731
    return quad(density, 0.5, 1)[0]


class TestRealVotes:
    """Votes may have real weights: exact at whole ones, and without jumps between."""

    @given(votes)
    def test_whole_numbers_may_be_floats(self, state):
        a, b = map(float, state)
        for table in (leader_confidence, tie_density, optimistic_gain, knowledge_gradient, stopping_index):
            assert table(a, b) == table(*state)
        assert (knowledge_gains(a, b) == knowledge_gains(*state)).all()

    @given(real_votes)
    def test_confidence_is_the_integral(self, state):
        assert leader_confidence(*state) == pytest.approx(by_integral(*state), abs=1e-6)

    @given(real_votes)
    def test_optimistic_gain_is_the_difference_of_confidences(self, state):
        a, b = state
        assert optimistic_gain(a, b) == pytest.approx(leader_confidence(a + 1, b) - leader_confidence(a, b), abs=1e-12)

    @given(real_votes)
    def test_tie_density_is_the_slope_of_confidence(self, state):
        # P(p > t) falls with t at the density: at one half, the mass between 1/2 and 1/2 + d over d
        a, b = state
        assert tie_density(a, b) == pytest.approx(
            math.exp(-(a + b) * math.log(2) - betaln(a + 1, b + 1)), rel=1e-9, abs=1e-300
        )

    @settings(max_examples=30, deadline=None)
    @given(real_votes)
    def test_gains_are_expectations_over_beta_binomial_outcomes(self, state):
        a, b = state
        gains = knowledge_gains(a, b)
        value = lambda a, b: max(leader_confidence(a, b), leader_confidence(b, a))  # noqa: E731
        for k in (1, 2, 5, 17, HORIZON):
            j = np.arange(k + 1)
            log_p = gammaln(k + 1) - gammaln(j + 1) - gammaln(k - j + 1) + betaln(a + 1 + j, b + 1 + k - j)
            chances = np.exp(log_p - betaln(a + 1, b + 1))
            expected = sum(p * value(a + i, b + k - i) for p, i in zip(chances, range(k + 1), strict=True))
            assert gains[k] == pytest.approx(expected - value(a, b), abs=1e-10)

    @settings(max_examples=50, deadline=None)
    @given(real_votes, st.sampled_from([0.5, 1.0, 3.0]))
    def test_knowledge_gradient_is_the_best_gain_a_sample(self, state, prior):
        found = knowledge_gradient(*state, prior)
        if prior == 1.0:
            assert found == pytest.approx(np.max(knowledge_gains(*state)[1:] / np.arange(1, HORIZON + 1)), rel=1e-9)
        assert found == pytest.approx(knowledge_gradient(state[0] + prior - 1, state[1] + prior - 1), rel=1e-6)

    @pytest.mark.parametrize("table", [knowledge_gradient, stopping_index])
    @settings(max_examples=50, deadline=None)
    @given(state=real_votes, step=steps)
    def test_an_index_falls_with_the_leader_and_rises_with_the_rival(self, table, state, step):
        a, b = state
        slack = 1 + 1e-9
        assert table(a + step, b) <= table(a, b) * slack
        assert table(a + step, b) <= table(a + step, b + step) * slack

    @pytest.mark.parametrize("table", [knowledge_gradient, stopping_index])
    @settings(max_examples=50, deadline=None)
    @given(votes=st.floats(0, 40), step=steps)
    def test_a_tie_of_more_votes_is_worth_less(self, table, votes, step):
        assert table(votes + step, votes + step) <= table(votes, votes) * (1 + 1e-9)

    @pytest.mark.parametrize("table", [knowledge_gradient, stopping_index])
    @settings(max_examples=50, deadline=None)
    @given(state=votes, x=st.floats(1e-9, 1e-7), y=st.floats(0, 1e-7))
    def test_an_index_has_no_jump_at_whole_votes(self, table, state, x, y):
        a, b = state
        near = table(a + x + y, b + y)
        assert near == pytest.approx(table(a, b), rel=1e-4, abs=1e-12)

    @settings(max_examples=50, deadline=None)
    @given(real_votes)
    def test_stopping_index_is_at_least_the_knowledge_gradient(self, state):
        assert stopping_index(*state) >= knowledge_gradient(*state) * (1 - 1e-9)

    @settings(max_examples=50, deadline=None)
    @given(st.integers(0, 40), st.integers(0, 20), steps)
    def test_stopping_index_between_two_whole_leads_is_between_theirs(self, rival, lead, step):
        found = stopping_index(rival + lead + step, rival)
        low, high = stopping_index(rival + lead + 1, rival), stopping_index(rival + lead, rival)
        assert low * (1 - 1e-9) <= found <= high * (1 + 1e-9)

    def test_stopping_index_does_not_cut_off_the_ridge_along_ties(self):
        between = stopping_index(2.5, 2.5)
        assert stopping_index(3, 3) < between < stopping_index(2, 2)

    def test_beyond_the_tables_real_votes_are_served_too(self):
        assert 0 < knowledge_gradient(400.5, 399.25) < knowledge_gradient(400.5, 400.5)
        assert stopping_index(400.5, 399.25) >= knowledge_gradient(400.5, 399.25)
        assert stopping_index(500.5, 0.25) == knowledge_gradient(500.5, 0.25) == 0.0
