"""How scheduling scales: pulls a second and bytes an arm, from a thousand to a million open arms.

    python examples/benchmarks/scale.py [--pulls 1000000] [--largest 1000000]

Each arm has its own law over six answers. Every pull takes the arm whose next sample is worth most, draws an answer,
counts it and puts the arm back; nothing is batched. No model is asked: this is the scheduler's own cost.
"""

from __future__ import annotations

import argparse
import math
import random
import time
import tracemalloc
from array import array

import numpy as np

from dynscale_dspy.allocation.frontier import Frontier
from dynscale_dspy.allocation.policies import make_policy

ANSWERS = 6


class Simulation:
    """So many calls with one sample each, and the votes they have so far."""

    def __init__(self, arms: int, policy: str, seed: int) -> None:
        generator = np.random.default_rng(seed)
        # Thresholds of each arm's answer law, as bytes: an arm costs ANSWERS bytes for them and as many for votes.
        shares = generator.dirichlet(np.full(ANSWERS, 0.4), size=arms)
        self.law = array("B", np.minimum(np.cumsum(shares, axis=1) * 256, 255).astype(np.uint8).tobytes())
        self.votes = array("H", bytes(2 * ANSWERS * arms))
        self.random = random.Random(seed).random
        self.frontier = Frontier(make_policy(policy), arms)
        for arm in range(arms):
            self.votes[ANSWERS * arm + self.draw(arm)] = 1
            self.frontier.place(arm, leader=1, runner_up=0, samples=1)

    def draw(self, arm: int) -> int:
        point, at = self.random() * 255, ANSWERS * arm
        law = self.law
        for answer in range(ANSWERS - 1):
            if point < law[at + answer]:
                return answer
        return ANSWERS - 1

    def run(self, pulls: int) -> int:
        frontier, votes, draw = self.frontier, self.votes, self.draw
        for done in range(pulls):
            arm = frontier.best()
            if arm is None:
                return done
            at = ANSWERS * arm
            votes[at + draw(arm)] += 1
            counts = sorted(votes[at : at + ANSWERS])
            frontier.place(arm, leader=counts[-1], runner_up=counts[-2], samples=sum(counts))
        return pulls


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--policy", default="knowledge_gradient")
    parser.add_argument("--pulls", type=int, default=1_000_000)
    parser.add_argument("--largest", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    Simulation(1000, arguments.policy, arguments.seed).run(1000)  # tables are built once
    print("     arms     pulls   pulls/s  us/pull x of first log n ratio bytes/arm")
    baseline, size_of_last = None, math.nan
    arms = 1000
    while arms <= arguments.largest:
        pulls = min(arguments.pulls, 8 * arms)
        simulation = Simulation(arms, arguments.policy, arguments.seed)
        done, seconds = 0, 0.0
        while done < pulls and seconds < 20:
            started = time.perf_counter()
            done += simulation.run(min(50_000, pulls - done))
            seconds += time.perf_counter() - started
        each = seconds / done
        baseline = baseline or each
        size = _bytes_per_arm(arms, arguments.policy, arguments.seed) if arms <= 100_000 else size_of_last
        size_of_last = size
        print(
            f"{arms:9d} {done:9d} {done / seconds:9.0f} {1e6 * each:8.2f} {each / baseline:10.2f} "
            f"{math.log(arms) / math.log(1000):11.2f} {size:9.0f}"
        )
        arms *= 10


def _bytes_per_arm(arms: int, policy: str, seed: int) -> float:
    """Peak memory of all that an arm needs while pulls are made, law included."""
    tracemalloc.start()
    simulation = Simulation(arms, policy, seed)
    simulation.run(arms)
    current, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return current / arms


if __name__ == "__main__":
    main()
