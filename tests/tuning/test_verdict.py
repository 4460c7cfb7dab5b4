"""The decision whether scaling is worth it, as a function of numbers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynscale_dspy.tuning.verdict import Spending, Way, decide, share, span_of


def way(name, scores=(), *, cost=1.0, single=False, changed=None):
    changed = (0.0,) * (len(scores) or 30) if changed is None else tuple(changed)
    subject = {"plain": "One plain request", "greedy": "One greedy request"}.get(name, f"Four ({name})")
    spending = Spending(cost, cost, 10 * cost, 10 * cost)
    return Way(name, subject, {}, single, spending, tuple(map(float, scores)), changed)


def right(count, of=40):
    return [1.0] * count + [0.0] * (of - count)


def test_a_gain_whose_whole_interval_is_above_nothing_is_taken_and_told_with_its_cost():
    verdict = decide(
        [way("plain", right(16), single=True), way("greedy", right(20), single=True), way("vote", right(34), cost=8.8)]
    )
    assert verdict.recommended.name == "vote" and verdict.base.name == "greedy"
    assert verdict.gains["vote"].low > 0 and verdict.gains["vote"].mean == pytest.approx(0.35)
    assert verdict.times == pytest.approx({"plain": 1.0, "greedy": 1.0, "vote": 8.8}) and verdict.unit == "tokens"
    assert verdict.sentence == ("Four (vote) gain 35.0 [17.9, 48.8] points over the greedy run for 8.8 times its cost.")


def test_a_gain_that_may_be_noise_is_not_and_the_sentence_says_what_would_show_one():
    verdict = decide([way("greedy", right(20), single=True), way("vote", right(22), cost=4)])
    assert verdict.recommended is verdict.base and verdict.gains["vote"].low < 0 < verdict.gains["vote"].high
    assert verdict.sentence == (
        "One greedy request is enough here, as far as 40 calls show: four (vote) gain 5.0 [-3.4, 13.0] points "
        "for 4.0 times its cost, and it takes about 220 calls to show a gain of 5 points."
    )


def test_of_a_larger_gain_it_says_what_would_show_that_one():
    verdict = decide(
        [way("greedy", right(20), single=True), way("vote", [1.0] * 18 + [0.0] * 2 + [1.0] * 6 + [0.0] * 14)]
    )
    assert verdict.sentence.endswith("and it takes about 170 calls to show a gain of 10 points.")


def test_many_calls_without_a_gain_say_so_plainly():
    verdict = decide([way("plain", right(500, 1000), single=True), way("vote", right(501, 1000), cost=4)])
    assert verdict.sentence == (
        "One plain request is enough here: four (vote) gain 0.1 [-0.2, 0.4] points for 4.0 times its cost."
    )


def test_what_is_shown_to_be_worse_is_called_so():
    verdict = decide([way("greedy", right(36), single=True), way("vote", right(20), cost=4)])
    assert verdict.recommended.name == "greedy"
    assert verdict.sentence.startswith("One greedy request is best here: four (vote) lose 40.0 [")


def test_gains_are_over_the_better_single_run_the_greedy_one_if_they_are_equal():
    plain, greedy = way("plain", right(30), single=True), way("greedy", right(20), single=True)
    assert decide([plain, greedy]).base.name == "plain"
    assert decide([way("plain", right(20), single=True), greedy]).base.name == "greedy"


def test_the_cheapest_that_helps_is_taken_unless_a_dearer_one_is_shown_to_be_better():
    base = way("greedy", right(10), single=True)
    cheap, dear = way("vote", right(26), cost=4), way("chain", right(28), cost=8)
    assert decide([base, dear, cheap]).recommended.name == "vote"
    assert decide([base, way("chain", right(39), cost=8), cheap]).recommended.name == "chain"


def test_more_candidates_need_a_larger_gain():
    base, better = way("greedy", right(20), single=True), way("vote", right(26), cost=4)
    assert decide([base, better]).recommended.name == "vote"
    others = [way(f"other {number}", right(20), cost=4) for number in range(20)]
    assert decide([base, better, *others]).recommended.name == "greedy"


def test_nothing_right_is_nothing_compared():
    verdict = decide([way("greedy", right(0), single=True), way("vote", right(0), cost=4)])
    assert (
        verdict.sentence
        == "No answer scored anything, so that nothing can be compared: look at the labels and the metric."
    )


def test_without_labels_more_samples_are_not_shown_to_help():
    changed = [1.0] * 9 + [0.0] * 21
    ways = [way("plain", single=True), way("greedy", single=True), way("vote", cost=4, changed=changed)]
    verdict = decide(ways)
    assert verdict.recommended.name == "plain" and not verdict.gains
    assert verdict.sentence == (
        "Without labels more samples are not shown to help, so keep the program as it is: four (vote) change 30 % "
        "[17, 48] of the answers of the greedy run, for better or worse; label the calls in `disagreements` to know "
        "which."
    )


def test_without_labels_what_changes_no_answer_is_not_needed():
    verdict = decide([way("plain", single=True), way("greedy", single=True), way("vote", cost=4)])
    assert verdict.recommended.name == "greedy"
    assert verdict.sentence == (
        "One greedy request is enough here: more samples change none of its 30 answers (at most 11 % of all calls)."
    )


def test_single_runs_alone_are_no_comparison():
    for scores in ((), right(3, 10)):
        verdict = decide([way("greedy", scores, single=True)])
        assert verdict.sentence == "One greedy request is all that the budget let the check measure."
    with pytest.raises(ValueError, match=r"^there is nothing to compare with: no way is a single run of the program$"):
        decide([way("vote", right(3))])


def test_costs_are_compared_in_dollars_if_all_are_known_else_in_tokens_else_in_requests():
    def units(*spending):
        ways = [Way(str(n), "", {}, True, each, (1.0, 0.0), (0.0, 0.0)) for n, each in enumerate(spending)]
        verdict = decide(ways)
        return verdict.unit, verdict.times["0"] / verdict.times["1"]

    assert units(Spending(1, 1, 10, 10, 0.1), Spending(4, 4, 40, 40, 0.2)) == ("dollars", 0.5)
    assert units(Spending(1, 1, 40, 10, None), Spending(4, 4, 40, 70, 0.2)) == ("tokens", 0.25)
    assert units(Spending(1, 1), Spending(4, 4, 40, 40, 0.2)) == ("requests", 0.25)
    assert units(Spending(1, 0), Spending(4, 0)) == ("samples", 0.25)


def test_where_only_requests_are_counted_nothing_is_said_of_cost():
    ways = [
        Way("greedy", "One greedy request", {}, True, Spending(1, 1), tuple(right(10)), (0.0,) * 40),
        Way("vote", "Four (vote)", {}, False, Spending(4, 4), tuple(right(30)), (0.0,) * 40),
    ]
    assert decide(ways).sentence.endswith(" points over the greedy run for 4.0 times its requests.")


def test_part_of_the_samples_of_a_shared_request_pays_for_the_whole_prompt():
    shared = Spending(8, 1, 100, 80, 0.0105)
    assert shared.part(4) == pytest.approx((4, 1, 100, 40, 0.0105 * 65 / 105))
    assert Spending(8, 16, 100, 80).part(4) == (4, 8, 50, 40, None)
    assert Spending(8, 8).part(2).tokens is None


def test_a_metric_of_another_range_is_told_in_its_own_unit():
    verdict = decide([way("greedy", [1.0, 2.0] * 20, single=True), way("vote", [4.0, 5.0] * 20, cost=2)])
    assert (
        verdict.sentence.startswith("Four (vote) gain 3 [2.")
        and "of the metric over the greedy run" in verdict.sentence
    )
    assert span_of([way("vote", [-1.0, 0.5])]) == (-1.0, 0.5)
    assert share([5.0, 5.0, 0.0, 0.0], (0.0, 5.0)).mean == 2.5


# ---- properties

SCORES = st.integers(2, 40).flatmap(
    lambda calls: st.lists(
        st.lists(st.one_of(st.sampled_from([0.0, 1.0]), st.floats(0, 1)), min_size=calls, max_size=calls),
        min_size=2,
        max_size=5,
    )
)


@given(SCORES, st.data())
def test_nothing_is_recommended_that_is_not_shown_to_be_better_than_the_base(scores, data):
    singles = data.draw(st.integers(1, min(2, len(scores) - 1)))
    costs = data.draw(st.lists(st.floats(0.5, 20), min_size=len(scores), max_size=len(scores)))
    ways = [
        way(f"{number}", each, single=number < singles, cost=cost)
        for number, (each, cost) in enumerate(zip(scores, costs, strict=True))
    ]
    verdict = decide(ways)
    chosen = verdict.recommended
    assert chosen.single == (chosen is verdict.base)
    assert sum(verdict.base.scores) == max(sum(each.scores) for each in ways if each.single)
    if not chosen.single:
        assert verdict.gains[chosen.name].low > 0
        cheaper = [each for each in ways if not each.single and verdict.times[each.name] < verdict.times[chosen.name]]
        for each in cheaper:
            assert verdict.gains[each.name].low <= 0 or sum(each.scores) < sum(chosen.scores)
    assert verdict.sentence.endswith(".") and "nan" not in verdict.sentence


@given(st.lists(st.sampled_from([0.0, 1.0]), min_size=1, max_size=60))
def test_a_share_lies_within_its_interval(values):
    found = share(values)
    assert 0 <= found.low <= found.mean + 1e-9 and found.mean - 1e-9 <= found.high <= 1 and found.low < found.high


@pytest.mark.parametrize("calls", [8, 40])
@pytest.mark.parametrize("alike", [0.0, 0.7])
@pytest.mark.parametrize("singles", [1, 2])
def test_equal_candidates_are_seldom_taken_for_better_ones(calls, alike, singles):
    """Of simulated checks in which scaling changes nothing about accuracy, at most 5 % recommend it."""
    generator = np.random.default_rng([calls, int(10 * alike), singles])
    wrong, checks = 0, 400
    for _ in range(checks):
        level = generator.choice([0.3, 0.6, 0.8])
        common = generator.random(calls) < level

        def scores(common=common, level=level):
            return np.where(generator.random(calls) < alike, common, generator.random(calls) < level)

        ways = [way(f"single {number}", scores(), single=True) for number in range(singles)]
        ways += [way(f"several {number}", scores(), cost=4) for number in range(4)]
        wrong += not decide(ways).recommended.single
    assert wrong <= 0.05 * checks


def test_a_large_gain_is_found():
    """Where scaling lifts 60 % to 85 %, most checks on 60 calls see it."""
    generator = np.random.default_rng(1)
    found = 0
    for _ in range(100):
        base = generator.random(60) < 0.6
        better = base | (generator.random(60) < 0.625)
        found += decide([way("greedy", base, single=True), way("vote", better, cost=4)]).recommended.name == "vote"
    assert found >= 90
