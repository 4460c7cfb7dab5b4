import pytest

from dynscale_dspy.replay import Pool, Question, bounds, replay
from dynscale_dspy.replay.streams import Streams
from tests.replay.support import simulated


def test_they_are_marked_and_ordered():
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


def test_hindsight_stops_at_the_first_right_prefix():
    pool = Pool("p", (Question("q", ("A",) * 4, frozenset("A")), Question("r", ("B",) * 4, frozenset("A"))))
    streams = Streams(pool, replicates=2)
    credit = bounds.hindsight(streams, [1])[0]
    assert credit[:, 0].tolist() == [1, 1] and credit[:, 1].tolist() == [0, 0]


def test_lagrangian_of_one_sample_is_its_accuracy():
    streams = Streams(simulated(), replicates=5)
    first = streams.credit[:, :, 1].mean()
    assert bounds.lagrangian([streams], [1])[0] == pytest.approx(first, abs=0.02)
