import argparse
import json

import numpy as np
import pytest

from dynscale_dspy.allocation.policies import KnowledgeGradient, Uniform
from dynscale_dspy.replay import Pool, PoolError, Question, bounds, replay
from dynscale_dspy.replay.cli import add_arguments, main
from dynscale_dspy.replay.statistics import area, bootstrap_weights, reach
from dynscale_dspy.replay.streams import Streams
from tests.replay.test_batch import simulated


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


class TestOnline:
    @pytest.mark.parametrize("arrivals", ["shuffled", "easy_first", "hard_first", "bursts"])
    @pytest.mark.parametrize("announced", [False, True])
    def test_never_over_the_allowance(self, arrivals, announced):
        result = replay(
            simulated(60), ["knowledge_gradient", "uniform"], budgets=(1, 2, 5), replicates=3, mode="online",
            arrivals=arrivals, announced=announced, concurrency=4,
        )  # fmt: skip
        assert all(record.spent is not None and record.spent <= record.budget + 1e-9 for record in result.records)

    def test_decides_as_a_live_pool_does(self):
        """The same price and allowance, moved in the same steps as BudgetPool moves them."""
        from dynscale_dspy import BudgetPool
        from dynscale_dspy.allocation.tally import Tally
        from dynscale_dspy.replay.online import allocate_online

        streams = Streams(simulated(60), replicates=1)
        policy = KnowledgeGradient()
        drawn = allocate_online(streams, policy, [4])[0].samples[0]
        pool = BudgetPool(per_call=4, policy=policy)
        for q in streams.arrival[0]:
            codes = streams._codes[0, q].tolist()
            arm = pool.open(int(streams.room[q]))
            assert arm is not None
            taken = 0
            while arm.waiting:
                while arm.waiting:
                    ticket = arm.take()
                    ticket.start()
                    ticket.call()
                    ticket.settle()
                    taken += 1
                tally = Tally.of(None if code < 0 else code for code in codes[:taken])
                arm.request(tally, int(streams.room[q]) - taken)
            arm.close()
            assert taken == drawn[q]


class TestBounds:
    def test_they_are_marked_and_ordered(self):
        result = replay(simulated(60, 40), ["knowledge_gradient"], budgets=(1, 2, 4, 8), replicates=20)
        for budget in (2, 4, 8):
            assert result.accuracy(bounds.HINDSIGHT, budget) >= result.accuracy(bounds.STATIC, budget)
            assert result.accuracy(bounds.STATIC, budget) >= result.accuracy("uniform", budget) - 1e-9
            assert result.accuracy(bounds.LAGRANGIAN, budget) >= result.accuracy("knowledge_gradient", budget) - 0.01
        assert all(
            "not a policy" in record.policy
            for record in result.records
            if record.policy not in ("uniform", "knowledge_gradient")
        )

    def test_hindsight_stops_at_the_first_right_prefix(self):
        pool = Pool("p", (Question("q", ("A",) * 4, frozenset("A")), Question("r", ("B",) * 4, frozenset("A"))))
        streams = Streams(pool, replicates=2)
        credit = bounds.hindsight(streams, [1])[0]
        assert credit[:, 0].tolist() == [1, 1] and credit[:, 1].tolist() == [0, 0]

    def test_lagrangian_of_one_sample_is_its_accuracy(self):
        streams = Streams(simulated(), replicates=5)
        first = streams.credit[:, :, 1].mean()
        assert bounds.lagrangian([streams], [1])[0] == pytest.approx(first, abs=0.02)


class TestScalars:
    def test_area_of_a_flat_curve_is_its_height(self):
        assert area([1, 2, 4, 8, 16, 32], [0.7] * 6) == pytest.approx(0.7)

    def test_area_needs_the_whole_range(self):
        assert area([1, 2, 4], [0.1, 0.2, 0.3]) is None

    def test_reach_is_between_points_by_the_logarithm(self):
        assert reach([1, 2, 8], [0.5, 0.6, 0.8], 0.7) == pytest.approx(4)

    def test_reach_may_be_never(self):
        assert reach([1, 2], [0.5, 0.6], 0.7) is None

    def test_reach_may_be_at_once(self):
        assert reach([1, 2], [0.5, 0.6], 0.4) == 1

    def test_weights_draw_the_same_questions_for_pools_that_share_them(self):
        one, two = (bootstrap_weights(simulated(name=name), 4, 0).reshape(-1, 4, 12).sum(axis=1) for name in "ab")
        assert np.allclose(one, two)
        assert np.allclose(one.sum(axis=1), 1)

    def test_bootstrap_error_is_about_right(self):
        generator = np.random.default_rng(0)
        questions = [
            Question(str(i), ("A" if generator.random() < 0.5 else "B",) * 8, frozenset("A")) for i in range(400)
        ]
        result = replay(Pool("p", tuple(questions)), ["uniform"], budgets=[1], replicates=3, with_bounds=False)
        assert result.records[0].se == pytest.approx(0.5 / 20, rel=0.2)


def run(*arguments):
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return main(parser.parse_args([str(argument) for argument in arguments]))


class TestCommand:
    @pytest.fixture
    def path(self, tmp_path):
        path = tmp_path / "lab__tiny__sums.jsonl.gz"
        simulated(20, 80).save(path)
        return path

    def test_prints_a_table_and_writes_json(self, path, tmp_path, capsys):
        out = tmp_path / "out.json"
        assert run(path, "--policies", "uniform,ucb:exploration=0.1", "--replicates", 3, "--json", out) == 0
        assert "sums: 1 pool, accuracy in %" in capsys.readouterr().out
        written = json.loads(out.read_text())
        assert list(written["records"][0]) == [
            "pool", "policy", "unit", "budget", "mode", "accuracy", "se", "spent", "rounds",
        ]  # fmt: skip
        assert list(written["summaries"][0]) == [
            "group", "policy", "area", "reach_uniform32", "diff_vs_uniform4", "diff_se",
        ]  # fmt: skip
        assert {record["policy"] for record in written["records"]} >= {"uniform", "ucb:exploration=0.1"}

    def test_draws_the_picture(self, path, tmp_path):
        pytest.importorskip("matplotlib")
        out = tmp_path / "out.png"
        assert run(path, "--policies", "knowledge_gradient", "--replicates", 2, "--plot", out) == 0
        assert out.read_bytes()[:4] == b"\x89PNG"

    def test_without_matplotlib_it_says_what_to_install(self, path, monkeypatch, capsys):
        monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
        assert run(path, "--plot", "out.png") == 2
        assert (
            capsys.readouterr().err == "dynscale replay: --plot needs Matplotlib: pip install 'dynscale-dspy[plots]'\n"
        )

    def test_bad_pool_is_one_clear_line(self, tmp_path, capsys):
        bad = tmp_path / "bad.jsonl"
        bad.write_text('{"id": "q", "answers": ["A"]}\n')
        assert run(bad) == 2
        assert capsys.readouterr().err == f"dynscale replay: {bad}:1: no 'gold', and no 'correct' in its place\n"

    def test_unknown_policy_is_one_clear_line(self, path, capsys):
        assert run(path, "--policies", "best") == 2
        assert capsys.readouterr().err.startswith("dynscale replay: unknown policy 'best': choose from ")

    def test_skips_are_printed(self, path, capsys):
        assert run(path, "--policies", "uniform", "--budgets", "1,64", "--replicates", 2) == 0
        assert "skipped: lab__tiny__sums: budget 64: above half of the pool" in capsys.readouterr().out


def test_uniform_is_always_there_for_comparison():
    result = replay(simulated(), [KnowledgeGradient()], budgets=[2], replicates=2, with_bounds=False)
    assert result.accuracy("uniform", 2) == replay(
        simulated(), [Uniform()], budgets=[2], replicates=2, with_bounds=False
    ).accuracy("uniform", 2)
