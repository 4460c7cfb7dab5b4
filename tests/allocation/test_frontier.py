import numpy as np
import pytest

from dynscale_dspy.allocation.evidence import Detail
from dynscale_dspy.allocation.frontier import Frontier
from dynscale_dspy.allocation.policies import PETS, UCB, AdaptiveConsistency, KnowledgeGradient, Uniform, make_policy
from dynscale_dspy.allocation.tally import Tally


def test_largest_index_first():
    frontier = Frontier(KnowledgeGradient(), 3)
    frontier.place(0, leader=4, runner_up=0, samples=4)
    frontier.place(1, leader=2, runner_up=2, samples=4)
    frontier.place(2, leader=2, runner_up=1, samples=3)
    assert [frontier.best() for _ in range(4)] == [1, 2, 0, None]


def test_arm_placed_anew_is_found_once_and_in_its_new_place():
    frontier = Frontier(Uniform(), 2)
    frontier.place(0, leader=1, runner_up=0, samples=1)
    frontier.place(1, leader=2, runner_up=0, samples=2)
    frontier.place(0, leader=3, runner_up=0, samples=3)
    assert [frontier.best() for _ in range(3)] == [1, 0, None]


def test_samples_in_flight_count():
    frontier = Frontier(Uniform(), 2)
    frontier.place(0, leader=1, runner_up=0, samples=1, pending=3)
    frontier.place(1, leader=2, runner_up=0, samples=2)
    assert frontier.best() == 1


def test_settled_arms_are_never_taken():
    frontier = Frontier(make_policy("sprt"), 1)
    frontier.place(0, leader=20, runner_up=0, samples=20)
    assert frontier.best() is None


@pytest.mark.parametrize("policy", [UCB(), PETS(), AdaptiveConsistency()])
def test_policies_that_look_further_are_refused(policy):
    if isinstance(policy, AdaptiveConsistency):
        assert policy.needs == Detail.COUNTS  # its Dirichlet form looks at five answers
    with pytest.raises(ValueError, match=r"^a frontier needs a policy of the top two answers alone, got "):
        Frontier(policy, 1)


def test_schedules_as_a_search_over_all_arms_would():
    generator = np.random.default_rng(0)
    policy, arms = KnowledgeGradient(), 30
    frontier = Frontier(policy, arms)
    tallies = [Tally.of("A") for _ in range(arms)]
    for arm in range(arms):
        frontier.place(arm, leader=1, runner_up=0, samples=1)
    for _ in range(300):
        best = max(policy.index(tally) for tally in tallies)
        arm = frontier.best()
        assert arm is not None and policy.index(tallies[arm]) == best
        tallies[arm] = tallies[arm].add("ABC"[generator.integers(3)])
        tally = tallies[arm]
        frontier.place(arm, leader=tally.leader, runner_up=tally.runner_up, samples=tally.samples)
