import pytest

from dynscale_dspy.allocation.policies import KnowledgeGradient, Uniform
from dynscale_dspy.replay import Pool, PoolError, Question, replay
from tests.replay.support import simulated


class TestReplay:
    def test_a_record_for_each_pool_policy_and_budget(self):
        pools = [simulated(name="lab__a__set"), simulated(seed=1, name="lab__b__set")]
        result = replay(pools, ["knowledge_gradient"], budgets=(1, 2, 4), replicates=3, with_bounds=False)
        keys = [(record.pool, record.policy, record.budget) for record in result.records]
        assert len(set(keys)) == len(keys) == 2 * 2 * 3

    def test_one_sample_is_the_same_for_every_policy(self):
        result = replay(simulated(), budgets=(1, 2), replicates=5, with_bounds=False)
        assert len({record.accuracy for record in result.records if record.budget == 1}) == 1

    def test_budgets_above_half_of_the_pool_are_skipped_and_named(self):
        result = replay(simulated(), ["uniform"], budgets=(4, 16), replicates=2, with_bounds=False)
        assert [record.budget for record in result.records] == [4]
        assert [(skip.what, skip.why) for skip in result.skipped] == [
            ("budget 16", "above half of the pool, 12 samples a question")
        ]

    def test_summaries_measure_against_uniform(self):
        result = replay(simulated(40, 80), ["knowledge_gradient"], replicates=8)
        by_policy = {summary.policy: summary for summary in result.summaries}
        uniform, ours = by_policy["uniform"], by_policy["knowledge_gradient"]
        assert uniform.diff_vs_uniform4 == 0 and uniform.diff_se == 0
        assert ours.diff_vs_uniform4 == pytest.approx(
            result.accuracy("knowledge_gradient", 4) - result.accuracy("uniform", 4)
        )
        assert ours.diff_se > 0 and ours.area > uniform.area  # type: ignore[operator]
        assert uniform.reach_uniform32 <= 32  # type: ignore[operator]

    def test_policies_can_be_named_by_the_caller(self):
        result = replay(simulated(), {"mine": KnowledgeGradient(kappa=5)}, budgets=[2], replicates=2, with_bounds=False)
        assert {record.policy for record in result.records} == {"uniform", "mine"}

    def test_same_seed_same_result(self):
        one, two = (replay(simulated(), ["ucb"], budgets=[3], replicates=3, seed=5) for _ in range(2))
        assert one.to_json() == two.to_json()

    def test_processes_change_nothing(self):
        pools = [simulated(name="a"), simulated(seed=1, name="b")]
        options = {"budgets": [2.0], "replicates": 2, "with_bounds": False}
        alone, together = (replay(pools, ["knowledge_gradient"], jobs=jobs, **options) for jobs in (1, 2))
        assert alone.to_json() == together.to_json()

    def test_a_shared_budget_goes_where_it_is_needed(self):
        """A pool of unanimous answers leaves what it does not need to one that is contested."""
        easy = Pool("lab__easy__set", tuple(Question(str(i), ("A",) * 32, frozenset("A")) for i in range(40)))
        hard = simulated(40, 80, name="lab__hard__set")
        for mode in ("batch", "online"):
            apart, shared = (
                replay([easy, hard], ["knowledge_gradient"], budgets=(1, 4), replicates=4, mode=mode, share=share)
                for share in (False, True)
            )
            spent = {
                (record.pool, share): record.spent
                for share, result in ((False, apart), (True, shared))
                for record in result.records
                if record.policy == "knowledge_gradient" and record.budget == 4
            }
            assert spent["lab__easy__set", True] < 4 < spent["lab__hard__set", True]  # type: ignore[operator]
            both = spent["lab__easy__set", True] + spent["lab__hard__set", True]  # type: ignore[operator]
            assert both <= 8 + 1e-9
            assert shared.accuracy("knowledge_gradient", 4) > apart.accuracy("knowledge_gradient", 4)
            assert shared.accuracy("knowledge_gradient", 1) == pytest.approx(
                apart.accuracy("knowledge_gradient", 1), abs=0.1
            )

    def test_a_shared_budget_in_tokens_says_what_each_pool_took(self):
        pools = [simulated(20, 40, name="lab__a__set"), simulated(20, 40, seed=1, name="lab__b__set")]
        result = replay(
            pools, ["knowledge_gradient"], budgets=[4], replicates=3, unit="tokens", share=True, with_bounds=False
        )
        taken = [record.spent for record in result.records if record.policy == "knowledge_gradient"]
        assert 7 < sum(taken) <= 8 + 1e-9  # type: ignore[arg-type]

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"budgets": [0.5]}, r"budgets must be at least 1 a query, got \[0.5\]"),
            ({"unit": "dollars"}, "unit must be 'samples' or 'tokens', got 'dollars'"),
            ({"mode": "live"}, "mode must be 'batch' or 'online', got 'live'"),
            ({"rounds": 0}, "rounds must be an integer of at least 1, got 0"),
            ({"replicates": 0}, "replicates must be an integer of at least 1, got 0"),
            ({"group_by": "size"}, "group_by must be one of dataset, model, source, pool, got 'size'"),
            ({"mode": "online", "unit": "tokens"}, "online replay counts samples and has no common rounds.*"),
            ({"arrivals": "sorted", "mode": "online"}, "arrivals must be one of shuffled, easy_first, .*"),
        ],
    )
    def test_bad_options_are_refused(self, options, message):
        with pytest.raises(ValueError, match=f"^{message}$"):
            replay(simulated(), ["uniform"], **options)

    def test_two_pools_of_one_name_are_refused(self):
        with pytest.raises(ValueError, match=r"^two pools are called 'sim'$"):
            replay([simulated(), simulated()], ["uniform"])

    def test_a_single_sample_cannot_be_halved(self):
        with pytest.raises(PoolError, match=r"^pool 'p': question 'q' has one sample, and half of it is none$"):
            replay(Pool("p", (Question("q", ("A",), frozenset("A")),)), ["uniform"])

    def test_tokens_need_token_counts(self):
        pool = Pool("p", (Question("q", ("A",) * 8, frozenset("A")),))
        with pytest.raises(PoolError, match="has no token counts"):
            replay(pool, ["uniform"], unit="tokens")


def test_uniform_is_always_there_for_comparison():
    result = replay(simulated(), [KnowledgeGradient()], budgets=[2], replicates=2, with_bounds=False)
    assert result.accuracy("uniform", 2) == replay(
        simulated(), [Uniform()], budgets=[2], replicates=2, with_bounds=False
    ).accuracy("uniform", 2)
