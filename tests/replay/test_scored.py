"""Recorded outputs with scores: rules of winning and policies replayed over them."""

from __future__ import annotations

import itertools
import statistics

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynscale_dspy import UCB
from dynscale_dspy.replay.outputs import Outputs, ScoredPool
from dynscale_dspy.replay.scored import BOUNDS, replay_calls, replay_scores
from dynscale_dspy.selection.embeddings import Embeddings
from dynscale_dspy.selection.lists import ElementVote
from dynscale_dspy.selection.medoid import Medoid
from dynscale_dspy.selection.plurality import Plurality

RULE = {"plurality": Plurality()}


def outputs(name, samples, good):
    """Outputs of which those that are in ``good`` score 1."""
    return Outputs(name, tuple(samples), tuple(float(sample in good) for sample in samples))


QUESTION = st.lists(st.sampled_from("abc"), min_size=4, max_size=8)


@given(
    st.lists(QUESTION, min_size=1, max_size=6),
    st.integers(1, 4),
    st.sampled_from(["uniform", "knowledge_gradient", "ucb"]),
)
@settings(max_examples=40)
def test_no_rule_is_above_the_best_sample_and_a_single_sample_is_a_random_one(questions, budget, policy):
    pool = ScoredPool("p", tuple(outputs(str(i), samples, "a") for i, samples in enumerate(questions)))
    rows = {row.selector: row for row in replay_scores(pool, RULE, policies=[policy], budgets=[budget], replicates=3)}
    assert rows["random"].gain == 0 <= rows["best of all"].gain
    if "plurality" in rows and policy == "uniform":
        assert rows["plurality"].score <= max(map(max, (q.scores for q in pool.questions)))
    for row in rows.values():
        assert row.low - 1e-9 <= row.gain <= row.high + 1e-9 and 0 <= row.score <= 1


@given(QUESTION, st.integers(1, 4))
@settings(max_examples=30)
def test_over_all_draws_the_best_and_the_vote_are_as_counted_by_hand(samples, budget):
    pool = ScoredPool("p", (outputs("q", samples, "ab"),))
    rows = {row.selector: row.score for row in replay_scores(pool, RULE, policies=["uniform"], budgets=[budget])}
    draws = list(itertools.combinations(samples, budget))
    assert rows["best of all"] == pytest.approx(statistics.fmean(any(s in "ab" for s in draw) for draw in draws))
    assert rows["random"] == pytest.approx(statistics.fmean(s in "ab" for s in samples))
    if budget == 1:
        assert 0 <= rows["plurality"] <= 1
    if budget == len(samples) and samples.count("a") > len(samples) / 2:
        assert rows["plurality"] == 1


def test_a_bandit_gains_where_some_questions_are_contested_and_others_are_not():
    easy = [outputs(f"easy {i}", "a" * 20, "a") for i in range(12)]
    hard = [outputs(f"hard {i}", "aab" * 7, "a") for i in range(12)]
    rows = replay_scores(ScoredPool("p", (*easy, *hard)), RULE, budgets=[4, 9], replicates=30)
    score = {(row.policy, row.budget): row.score for row in rows}
    assert score["knowledge_gradient", 4] > score["uniform", 4] + 0.02
    assert score["knowledge_gradient", 9] > score["uniform", 9] + 0.02


def test_budgets_beyond_what_was_recorded_are_left_out():
    pool = ScoredPool("p", (outputs("q", "aabb", "a"), outputs("r", "aaaaaa", "a")))
    rows = replay_scores(pool, RULE, budgets=[2, 3, 4, 5])
    assert {row.budget for row in rows if row.policy == "uniform"} == {2, 3, 4}
    assert {row.budget for row in rows if row.policy == "knowledge_gradient"} == {2}  # half of what the first has
    assert {row.budget for row in rows if row.selector in BOUNDS} == {2, 3, 4}


def test_a_policy_that_explores_and_samples_without_an_output_are_replayed_too():
    pool = ScoredPool(
        "p", (Outputs("q", (None, "a", None, "a", "b", None), (0, 1, 0, 1, 0, 0)), outputs("r", "ab" * 3, "a"))
    )
    found = replay_scores(pool, RULE, policies=[UCB()], budgets=[2, 3], replicates=5)
    assert [row.budget for row in found if row.selector == "plurality"] == [2, 3]


def test_several_fields_vote_together():
    pool = ScoredPool("p", (Outputs("q", ({"x": 1}, {"x": 1}, {"x": 2}, {"x": 1}), (1, 1, 0, 1)),))
    assert {row.score for row in replay_scores(pool, RULE, budgets=[4]) if row.selector == "plurality"} == {1.0}


def test_a_seed_makes_it_repeat_itself():
    pool = ScoredPool("p", tuple(outputs(str(i), "aabcab", "a") for i in range(5)))
    assert replay_scores(pool, RULE, seed=3) == replay_scores(pool, RULE, seed=3)
    assert replay_scores(pool, RULE, seed=3, replicates=2) != replay_scores(pool, RULE, seed=4, replicates=2)


@pytest.mark.parametrize(
    ("options", "words"), [({"budgets": [0]}, "budgets must be at least 1"), ({"replicates": 0}, "replicates must be")]
)
def test_options_out_of_range_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        replay_scores(ScoredPool("p", (outputs("q", "ab", "a"),)), RULE, **options)


def test_a_composed_answer_is_scored_where_that_can_be():
    samples, wanted = (["a", "x"], ["a", "y"], ["a", "z"]), {"a"}
    for score, expected in ((None, 0.5), (lambda answer: float(set(answer) == wanted), 1.0)):
        pool = ScoredPool("p", (Outputs("q", samples, (0.5,) * 3, score),))
        rows = replay_scores(pool, {"elements": ElementVote()}, policies=["uniform"], budgets=[3])
        assert rows[-1].score == expected


def test_each_call_is_told_of_with_its_votes_and_the_score_of_what_won():
    pool = ScoredPool("p", (outputs("q", "aab", "a"), outputs("r", "ab", "b")))
    (found,) = replay_calls(pool, RULE, policies=["uniform"], budgets=[2], replicates=5)
    assert (found.selector, found.policy, found.budget, len(found.calls)) == ("plurality", "uniform", 2, 10)
    for place, score in enumerate(found.scores):
        calls = found.calls[5 * place : 5 * place + 5]
        assert statistics.fmean(score for _, score in calls) == score
        assert all(selection.evidence().samples == 2 for selection, _ in calls)


def test_texts_are_embedded_in_one_request_a_question():
    asked = []

    def letters(texts):
        asked.append(texts)
        return [[1e-9 + text.count(letter) for letter in "abqxy"] for text in texts]

    said = ("q", "x y", "y x", "abab", "baba", "aabb")
    pool = ScoredPool("p", (Outputs("q", said, (0, 0, 0, 1, 1, 1)),))
    rows = replay_scores(pool, {"vectors": Medoid(Embeddings(letters))}, policies=["uniform"], budgets=[6])
    assert rows[-1].score == 1 and asked == [list(said)]


def test_a_bandit_learns_that_samples_never_agree_as_in_a_batch():
    never = [Outputs(f"never {i}", tuple(f"{i} {j}" for j in range(16)), (0.0,) * 16) for i in range(60)]
    contested = [outputs(f"contested {i}", "ab" * 8, "a") for i in range(10)]
    pool = ScoredPool("p", (*never, *contested))
    (found,) = replay_calls(pool, RULE, policies=["knowledge_gradient"], budgets=[4], replicates=1)
    drawn = [selection.evidence().samples for selection, _ in found.calls]
    assert sum(drawn) == 4 * len(pool.questions)
    assert statistics.fmean(drawn[60:]) > 1.5 * statistics.fmean(drawn[:60])
