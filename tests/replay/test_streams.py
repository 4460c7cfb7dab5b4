"""What a policy sees along random orders of recorded samples, against counting votes one by one."""

import numpy as np
import pytest

from dynscale_dspy.allocation.policies import make_policy
from dynscale_dspy.allocation.tally import Tally
from dynscale_dspy.replay import Pool, Question
from dynscale_dspy.replay.streams import Streams
from dynscale_dspy.selection.plurality import Plurality
from tests.replay.support import answers_of, simulated


def test_credit_of_a_tie_is_shared():
    streams = Streams(Pool("p", (Question("q", ("A", "B") * 2, frozenset("A")),)), replicates=200)
    tied = (streams.leader[:, 0, 2] == 1) & (streams.runner_up[:, 0, 2] == 1)
    assert tied.any() and (streams.credit[:, 0, 2][tied] == 0.5).all()


def test_credit_agrees_with_counting_votes():
    streams = Streams(simulated(seed=5), replicates=4)
    for r in range(4):
        for q, question in enumerate(streams.pool.questions):
            names = sorted({answer for answer in question.answers if answer is not None})
            answers = [None if code is None else names[code] for code in answers_of(streams, r, q)]
            for n in range(len(answers) + 1):
                tally = Tally.of(answers[:n])
                ahead = [answer for answer, votes in tally.votes.items() if votes == tally.leader]
                expected = sum(answer in question.right for answer in ahead) / max(len(ahead), 1)
                assert streams.credit[r, q, n] == pytest.approx(expected)
                assert (streams.leader[r, q, n], streams.runner_up[r, q, n]) == (tally.leader, tally.runner_up)


def test_nothing_but_failures_earns_nothing():
    streams = Streams(Pool("p", (Question("q", (None,) * 8, frozenset("A")),)), replicates=2)
    assert not streams.credit.any()


@pytest.mark.parametrize("spec", ["pets", "early_stopping", "knowledge_gradient"])
def test_views_show_a_policy_what_was_drawn(spec):
    policy = make_policy(spec)
    streams = Streams(simulated(seed=7), replicates=3)
    views = streams.views(policy)
    kind = type(policy.tally())
    for r in range(3):
        for q in range(12):
            for n in range(13):
                seen, real = views.tallies[views.ids[r, q, n]], kind.of(answers_of(streams, r, q)[:n])
                assert (seen.leader, seen.runner_up, seen.samples) == (real.leader, real.runner_up, real.samples)
                assert policy.index(seen) == pytest.approx(policy.index(real))


def test_orders_depend_on_seed_and_pool_name_alone():
    one, same = Streams(simulated(), replicates=2, seed=1), Streams(simulated(), replicates=2, seed=1)
    other = Streams(simulated(), replicates=2, seed=2)
    assert (one._codes == same._codes).all() and not (one._codes == other._codes).all()


@pytest.mark.parametrize("seed", range(4))
def test_who_wins_is_plurality_s_rule(seed):
    """The same leaders and weights; credit is that of the winner, and shared where several lead."""
    streams, selector = Streams(simulated(questions=8, seed=seed), replicates=3, seed=seed), Plurality()
    for r in range(3):
        for q, question in enumerate(streams.pool.questions):
            names = sorted({answer for answer in question.answers if answer is not None})
            selection, answers = selector.empty(), answers_of(streams, r, q)
            for n, code in enumerate(answers):
                selection = selection.add(None if code is None else selector.read(names[code]))
                groups, evidence = selection.groups(), selection.evidence()
                assert (streams.leader[r, q, n + 1], streams.runner_up[r, q, n + 1]) == (evidence.lead, evidence.rival)
                leading = [group for group in groups if group.weight == evidence.lead]
                right = [group.answer in question.right for group in leading]
                assert streams.credit[r, q, n + 1] == pytest.approx(np.mean(right) if right else 0)
                winner = selection.winner()
                if winner is not None:
                    assert any(winner in group.samples for group in leading)
                if len(leading) == 1:
                    assert winner is not None
                    assert streams.credit[r, q, n + 1] == (names[answers[winner]] in question.right)


def test_a_tie_is_credited_as_plurality_breaks_it_over_many_orders():
    """The answer sampled first wins a tie, and in random orders each of those that lead is first equally often."""
    streams = Streams(Pool("p", (Question("q", ("A", "B") * 4, frozenset("A")),)), replicates=2000)
    selector, won, credit = Plurality(), 0, 0.0
    for r in range(streams.replicates):
        selection = selector.empty()
        for code in answers_of(streams, r, 0):
            selection = selection.add(selector.read("AB"[code]))
        winner = selection.winner()
        assert winner is not None
        won += answers_of(streams, r, 0)[winner] == 0
        credit += streams.credit[r, 0, -1]
    assert won / streams.replicates == pytest.approx(credit / streams.replicates, abs=0.03)
