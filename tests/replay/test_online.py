import pytest

from dynscale_dspy import BudgetPool
from dynscale_dspy.allocation.policies import KnowledgeGradient
from dynscale_dspy.allocation.tally import Tally
from dynscale_dspy.replay import replay
from dynscale_dspy.replay.online import allocate_online
from dynscale_dspy.replay.streams import Streams
from tests.replay.support import simulated
from tests.support import open_call


@pytest.mark.parametrize("arrivals", ["shuffled", "easy_first", "hard_first", "bursts"])
@pytest.mark.parametrize("announced", [False, True])
def test_never_over_the_allowance(arrivals, announced):
    result = replay(
        simulated(60), ["knowledge_gradient", "uniform"], budgets=(1, 2, 5), replicates=3, mode="online",
        arrivals=arrivals, announced=announced, concurrency=4,
    )  # fmt: skip
    assert all(record.spent is not None and record.spent <= record.budget + 1e-9 for record in result.records)


def test_decides_as_a_live_pool_does():
    """The same price and allowance, moved in the same steps as BudgetPool moves them."""
    streams = Streams(simulated(60), replicates=1)
    policy = KnowledgeGradient()
    drawn = allocate_online(streams, policy, [4])[0].samples[0]
    pool = BudgetPool(per_call=4, policy=policy)
    for q in streams.arrival[0]:
        codes = streams._codes[0, q].tolist()
        arm = open_call(pool, int(streams.room[q]))
        assert arm is not None
        taken = 0
        while arm.waiting:
            while arm.waiting:
                lease = arm.take()
                lease.start()
                lease.charge()
                lease.settle()
                taken += 1
            tally = Tally.of(None if code < 0 else code for code in codes[:taken])
            arm.request(tally, ["independent"] * (int(streams.room[q]) - taken))
        arm.close()
        assert taken == drawn[q]
