"""The fast engine against one that a reader can check at a glance."""

import numpy as np
import pytest

from dynscale_dspy.allocation.policies import UCB, KnowledgeGradient, Uniform, make_policy
from dynscale_dspy.replay import Pool, Question
from dynscale_dspy.replay.batch import allocate, expected_cost
from dynscale_dspy.replay.streams import Streams
from tests.replay.support import answers_of, simulated


def one_by_one(streams, policy, total, replicate, first):
    """Always the largest index; among equals fewest samples, then the earlier in the random order."""
    kind = type(policy.tally())
    drawn = {q: min(first, int(streams.room[q])) for q in range(streams.questions)}
    position = {int(q): i for i, q in enumerate(streams.arrival[replicate])}
    while (spent := sum(drawn.values())) < total:
        worth = {
            q: policy.index(kind.of(answers_of(streams, replicate, q)[:n]), total=spent)
            for q, n in drawn.items()
            if n < streams.room[q]
        }
        if not worth or max(worth.values()) <= 0:
            break
        drawn[max(worth, key=lambda q: (worth[q], -drawn[q], -position[q]))] += 1
    return [drawn[q] for q in range(streams.questions)]


class TestKnownSet:
    @pytest.mark.parametrize(
        "spec",
        ["uniform", "knowledge_gradient", "optimal_stopping", "optimistic_knowledge_gradient", "pets", "ppr",
         "adaptive_consistency:threshold=0.8", "early_stopping:window=3", "knowledge_gradient:first=2"],
    )  # fmt: skip
    def test_draws_what_a_greedy_scheduler_draws(self, spec):
        streams, policy = Streams(simulated(), replicates=3), make_policy(spec)
        budgets = [2, 3.5, 6]
        for budget, allocation in zip(budgets, allocate(streams, policy, budgets), strict=True):
            for r in range(3):
                expected = one_by_one(streams, policy, int(budget * 12), r, policy.first)
                assert allocation.samples[r].tolist() == expected

    def test_rules_with_a_growing_bonus_too(self):
        streams, policy = Streams(simulated(), replicates=3), UCB()
        drawn = allocate(streams, policy, [4])[0].samples
        for r in range(3):
            # ties between arms of different size are broken by order alone here, so compare what is spent where
            assert sorted(drawn[r]) == sorted(one_by_one(streams, policy, 48, r, 2))

    def test_uniform_gives_everyone_the_same(self):
        drawn = allocate(Streams(simulated(), replicates=2), Uniform(), [5])[0].samples
        assert (drawn == 5).all()

    def test_never_more_than_half_of_a_question(self):
        pool = simulated(4)
        short = Question("short", ("A", "B") * 3, frozenset("A"))
        streams = Streams(Pool("p", (*pool.questions, short)), replicates=5)
        for spec in ("uniform", "ucb", "knowledge_gradient"):
            drawn = allocate(streams, make_policy(spec), [9])[0].samples
            assert drawn.max() <= 12 and drawn[:, 4].max() <= 3

    def test_first_samples_come_before_all_else(self):
        drawn = allocate(Streams(simulated(), replicates=2), KnowledgeGradient(first=3), [3])[0].samples
        assert (drawn == 3).all()

    def test_too_little_for_all_first_samples_gives_each_one(self):
        drawn = allocate(Streams(simulated(), replicates=2), KnowledgeGradient(first=3), [2])[0].samples
        assert drawn.min() == 1 and (drawn.sum(axis=1) == 24).all()


class TestRounds:
    def test_one_round_is_first_samples_only(self):
        allocation = allocate(Streams(simulated(), replicates=2), KnowledgeGradient(), [4], rounds=1)[0]
        assert (allocation.samples == 1).all() and allocation.rounds == 1

    @pytest.mark.parametrize("spec", ["uniform", "knowledge_gradient", "ucb", "early_stopping:window=3"])
    def test_budget_is_spent_in_the_rounds_given(self, spec):
        allocation = allocate(Streams(simulated(), replicates=4), make_policy(spec), [4], rounds=4)[0]
        assert allocation.rounds <= 4
        assert (allocation.samples.sum(axis=1) <= 48).all()
        assert (allocation.samples.sum(axis=1) >= 36).all()

    def test_more_rounds_come_closer_to_deciding_each_time(self):
        pool = simulated(200, seed=3)
        streams = Streams(pool, replicates=10)
        score = lambda a: np.take_along_axis(streams.credit, a.samples[:, :, None], axis=2).mean()  # noqa: E731
        few, many = (score(allocate(streams, KnowledgeGradient(), [4], rounds=n)[0]) for n in (2, 20))
        assert few < many <= score(allocate(streams, KnowledgeGradient(), [4])[0]) + 0.01


class TestTokens:
    def test_never_over_but_for_first_samples(self):
        pool = simulated()
        streams = Streams(pool, replicates=4)
        for spec in ("uniform", "knowledge_gradient", "ucb"):
            for budget, allocation in zip(
                (2, 5), allocate(streams, make_policy(spec), [2, 5], unit="tokens"), strict=True
            ):
                assert streams.tokens is not None
                used = np.take_along_axis(streams.tokens, allocation.samples[:, :, None], axis=2)[:, :, 0].sum(axis=1)
                assert (used <= budget * pool.tokens_per_sample * 12 + 1e-6).all()
                assert (allocation.spent <= budget + 1e-9).all()
                assert (allocation.spent > budget - 0.2).all()

    def test_same_worth_at_less_cost_goes_first(self):
        cheap = [Question(f"cheap{i}", ("A", "B") * 8, frozenset("A"), (10,) * 16) for i in range(6)]
        dear = [Question(f"dear{i}", ("A", "B") * 8, frozenset("A"), (1000,) * 16) for i in range(6)]
        streams = Streams(Pool("p", (*cheap, *dear)), replicates=20)
        drawn = allocate(streams, KnowledgeGradient(), [2], unit="tokens")[0].samples.mean(axis=0)
        blind = allocate(streams, KnowledgeGradient(), [2], unit="tokens", cost_exponent=0)[0].samples.mean(axis=0)
        assert drawn[:6].mean() > blind[:6].mean() > 1

    def test_expected_cost_starts_near_the_common_mean_and_finds_the_arm_s_own(self):
        dear = Question("dear", ("A",) * 40, frozenset("A"), (1000,) * 40)
        cheap = Question("cheap", ("A",) * 40, frozenset("A"), (10,) * 40)
        cost = expected_cost(Streams(Pool("p", (dear, cheap)), replicates=1))
        assert cost[0, 0, 0] == pytest.approx(1)
        assert cost[0, 0, 1] == pytest.approx((1000 + 2 * 505) / 3 / 505)
        assert cost[0, 1, 20] < 0.15
