"""How scheduling scales: pulls a second and bytes an arm, from a thousand to a million open arms.

    python examples/benchmarks/scale.py [--pulls 1000000] [--largest 1000000] [--quick] [--json OUT]

Each arm has its own law over six answers. Every pull takes the arm whose next sample is worth most, draws an answer,
counts it and puts the arm back; nothing is batched. No model is asked: this is the scheduler's own cost.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import time
import tracemalloc
from array import array
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

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
    parser.add_argument("--quick", action="store_true", help="up to 10,000 arms")
    parser.add_argument("--json", metavar="OUT", help="write the rows here")
    arguments = parser.parse_args()
    largest = 10_000 if arguments.quick else arguments.largest
    Simulation(1000, arguments.policy, arguments.seed).run(1000)  # tables are built once
    rows = []
    arms = 1000
    while arms <= largest:
        pulls = min(arguments.pulls, 8 * arms)
        simulation = Simulation(arms, arguments.policy, arguments.seed)
        done, seconds = 0, 0.0
        while done < pulls and seconds < 20:
            started = time.perf_counter()
            done += simulation.run(min(50_000, pulls - done))
            seconds += time.perf_counter() - started
        each = seconds / done
        rows.append(
            {
                "arms": arms,
                "pulls": done,
                "pulls_per_second": round(done / seconds),
                "microseconds_per_pull": round(1e6 * each, 2),
                "times_first": round(1e6 * each / rows[0]["microseconds_per_pull"], 2) if rows else 1.0,
                "log_n_ratio": round(math.log(arms) / math.log(1000), 2),
                # Measuring memory slows a run a lot; past this size it no longer changes.
                "bytes_per_arm": round(_bytes_per_arm(min(arms, 100_000), arguments.policy, arguments.seed)),
            }
        )
        arms *= 10
    table = Table(*rows[0])
    for row in rows:
        table.add_row(*(f"{value:,}" for value in row.values()))
    Console().print(table)
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(rows, indent=1))


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
