from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from dynscale_dspy.replay import Pool, PoolError, Question
from dynscale_dspy.replay.models import BOUND, STRATEGIES, all_of, compare, difference, groups, shared
from dynscale_dspy.sampling.escalate import Escalate

LADDER = {"ladder": STRATEGIES["ladder"]}


def pool(model, share, *, questions=40, samples=48, dataset="sums", seed=0, tokens=100, spread=8):
    """A model that is right so often on average, more on some questions than on others; wrong answers scatter."""
    generator = np.random.default_rng([seed, len(model)])
    made = []
    for number in range(questions):
        right = np.clip(share + 0.25 * np.sin(number), 0, 1)
        said = ["gold" if generator.random() < right else f"wrong {generator.integers(spread)}" for _ in range(samples)]
        made.append(Question(str(number), tuple(said), frozenset(["gold"]), (tokens,) * samples))
    return Pool(f"lab__{model}__{dataset}", tuple(made))


def test_pools_of_the_same_questions_come_together_by_their_ids():
    one, other = pool("one", 0.5, questions=4), pool("other", 0.5, questions=6)
    alone = pool("one", 0.5, dataset="words")
    [found] = shared([one, other, alone])
    assert found.name == "sums"
    assert [each.model for each in found.pools] == ["one", "other"]
    assert [question.id for question in found.pools[1].questions] == [f"sums/{number}" for number in range(4)]


def test_editions_of_a_data_set_are_one():
    pools = [pool(model, 0.5, questions=3, dataset=f"sums{year}") for model in ("one", "two") for year in (2024, 2025)]
    [found] = shared(pools)
    assert [len(each.questions) for each in found.pools] == [6, 6]
    assert len({question.id for question in found.pools[0].questions}) == 6


def test_groups_are_all_orders_unless_models_are_named():
    [found] = shared([pool("one", 0.5), pool("two", 0.5), pool("three", 0.5)])
    assert len(groups(found, None, 2)) == 6
    assert groups(found, ["two", "one"], 2) == [("two", "one")]
    assert groups(found, ["two", "none"], 2) == []
    assert [each.model for each in found.of(["two", "one"]).pools] == ["two", "one"]
    with pytest.raises(PoolError, match="no pool of 'none'"):
        found.of(["none"])


def test_a_price_is_needed_for_each_model():
    [found] = shared([pool("one", 0.5), pool("two", 0.5)])
    with pytest.raises(PoolError, match="one price a model is needed: got 3 for one, two"):
        compare(found, [1, 2, 3])


def test_the_ladder_is_the_single_model_rule_where_both_models_are_one_of_one_price():
    """Equal models and a vote of equal weight: the same policy on the same votes, up to the orders of samples."""
    [found] = shared([pool("first", 0.5, seed=3), pool("other", 0.5, seed=4)])
    rule = {"alike": Escalate(weight=1, upfront=0, beside=0, learn=False)}
    made = compare(found, [1, 1], strategies=rule, budgets=[2, 4, 8], replicates=12)
    for place in range(3):
        gain, error = made.curve("alike").gain(made.curve("KG first"), place)
        assert abs(gain) < 3 * error + 0.02


def test_escalating_pays_where_the_dear_model_is_better_and_is_safe_where_it_is_not():
    weak, strong = pool("weak", 0.45, seed=1), pool("strong", 0.75, seed=2)
    made = compare(*shared([weak, strong]), [1, 12], budgets=[1, 2], replicates=6)
    for place in (0, 1):
        assert made.curve("Escalate").mean(place) > made.curve("uniform strong").mean(place)
    turned = compare(*shared([strong, weak]), [1, 12], budgets=[1, 2], replicates=6)
    for place in (0, 1):
        ladder, ours, best = (turned.curve(way).mean(place) for way in ("ladder", "Escalate", BOUND))
        assert best - 0.08 < ours
        assert ladder < ours


def test_the_better_of_two_like_models_is_found():
    made = compare(*shared([pool("weak", 0.3, seed=1), pool("strong", 0.7, seed=2)]), [1, 1], budgets=[6], replicates=6)
    found, weak, strong = (made.curve(way).mean(0) for way in ("BestOf", "KG weak", "KG strong"))
    assert found > (weak + strong) / 2 + 0.1


def test_prices_times_a_constant_change_nothing():
    [found] = shared([pool("weak", 0.45, questions=10), pool("strong", 0.75, questions=10)])
    one, other = (compare(found, [by, 10 * by], replicates=2) for by in (1, 1000))
    for way in STRATEGIES:
        for ours, theirs in zip(one.curve(way).accuracy, other.curve(way).accuracy, strict=True):
            assert ours == pytest.approx(theirs)


def test_budgets_are_in_samples_of_the_dearest_model_and_of_costs():
    made = compare(
        *shared([pool("brief", 0.5, tokens=50), pool("wordy", 0.5, tokens=200)]),
        [1, 5], strategies=LADDER, budgets=[0.5, 1], replicates=2,
    )  # fmt: skip
    assert made.costs == (1, 20)
    assert made.curve("KG wordy").mean(0) is None, "half of a sample a question has not one for each"
    assert made.curve("KG wordy").mean(1) is not None
    assert made.curve(BOUND).mean(0) == made.curve("KG brief").mean(0)


def test_without_tokens_prices_are_of_samples():
    pools = [pool("one", 0.5, questions=6), pool("two", 0.7, questions=6)]
    bare = [Pool(each.name, tuple(Question(q.id, q.answers, q.right) for q in each.questions)) for each in pools]
    made = compare(*shared(bare), [1, 10], strategies=LADDER, budgets=[1, 2], replicates=2)
    assert made.costs == (1, 10)
    assert made.curve("ladder").mean(1) > 0.3


def test_three_models_can_be_compared():
    pools = [pool(name, share, questions=8) for name, share in (("one", 0.3), ("three", 0.5), ("seven", 0.8))]
    made = compare(*shared(pools), [1, 3, 20], budgets=[1, 2], replicates=2)
    assert [curve.way for curve in made.curves] == [
        "KG one", "KG three", "KG seven", "uniform seven", *STRATEGIES, BOUND,
    ]  # fmt: skip


def test_differences_are_paired_over_questions():
    made = compare(
        *shared([pool("a", 0.4, questions=9), pool("bb", 0.6, questions=9)]), [1, 2], strategies=LADDER, replicates=3
    )
    one, other = made.curve("ladder"), made.curve("KG a")
    each = one.accuracy[2] - other.accuracy[2]
    assert one.gain(other, 2) == pytest.approx((each.mean(), each.std(ddof=1) / 3))
    assert difference([(one, other), (other, other)], 2) == pytest.approx((each.mean() / 2, each.std(ddof=1) / 6))
    assert difference([(made.curve("KG bb"), other)], 0) is None
    with pytest.raises(KeyError):
        made.curve("none")


def test_several_processes_say_the_same():
    [found] = shared([pool("one", 0.5, questions=3), pool("two", 0.7, questions=3)])
    one = partial(compare, prices=[1, 9], strategies=LADDER, budgets=[1, 2], replicates=1)
    ours, theirs = (list(all_of(one, [found, found], jobs=jobs)) for jobs in (1, 2))
    told = [[[curve.mean(1) for curve in made.curves] for made in each] for each in (ours, theirs)]
    assert told[0] == told[1]
    assert len(told[0]) == 2


def test_replays_are_reproducible_and_seeded():
    [found] = shared([pool("one", 0.5, questions=8), pool("two", 0.7, questions=8)])
    runs = [compare(found, [1, 9], strategies=LADDER, replicates=2, seed=seed) for seed in (0, 0, 1)]
    told = [[curve.mean(3) for curve in run.curves] for run in runs]
    assert told[0] == told[1] != told[2]
