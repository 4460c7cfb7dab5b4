"""Two thousand questions labelled by workers on three nodes, from one budget; one worker is killed on the way.

The cluster is made of three Ray nodes on this machine, the model is the small one in the box. The same works on a real
cluster and a real model: `ray.init(address="auto")`, `dspy.configure(lm=...)`, a dataset from `ray.data.read_parquet`.

    pip install -e ".[ray,lab]" && python examples/ray_batch.py [--quick]
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import tempfile
import threading
import time

os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # without a network LiteLLM waits for its price list
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # no report of this cluster to Ray's authors

import dspy

from dynscale_dspy import BudgetPool, DynScaling, lab

try:
    import ray
    from ray.cluster_utils import Cluster
except ImportError:
    sys.exit('this example needs Ray: pip install "dynscale-dspy[ray,lab]"')

from dynscale_dspy.distributed import LeasedPool, run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two workers and 40 questions")
    parser.add_argument("--questions", type=int, default=2000)
    parser.add_argument("--workers", type=int, default=3, help="one to four")
    parser.add_argument("--spare", action="store_true", help="kill nobody")
    arguments = parser.parse_args()
    workers, count = (2, 40) if arguments.quick else (arguments.workers, arguments.questions)
    # A killed worker takes what its open calls have drawn along: of 40 questions that is much, of 2,000 little.
    samples = (6 if arguments.quick else 4) * count
    asked = lab.questions(count, seed=5)
    rows = [{"id": i, "question": question.question, "right": question.answer} for i, question in enumerate(asked)]
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    for _ in range(2):
        cluster.add_node(num_cpus=2)
    ray.init(address=cluster.address, log_to_driver=False, logging_level=logging.ERROR)
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    ray.data.DataContext.get_current().enable_progress_bars = sys.stderr.isatty()
    try:
        with lab.serve() as lm, tempfile.TemporaryDirectory() as folder:
            dspy.configure(lm=lm)
            pool = BudgetPool(samples=samples).expect(count).publish("ray_batch")
            qa = DynScaling(dspy.ChainOfThought("question -> answer"), budget=pool)
            done = threading.Event()
            killer = threading.Thread(target=kill_one, args=(pool, count, done))
            if not arguments.spare:
                killer.start()
            started = time.perf_counter()
            dataset = ray.data.from_items(rows, override_num_blocks=min(count // 10, 64))
            answered = run(
                qa, dataset, pool, workers=workers, in_flight=16, rows_per_task=16, key="id", checkpoint=folder
            ).take_all()
            seconds = time.perf_counter() - started
            done.set()
            if not arguments.spare:
                killer.join()
            print_outcome(answered, count, seconds)
            pool.reconcile()
            leases = pool.leases()
            spent = pool.end().spent
            print(f"{spent.samples} of {samples} samples are spent, {spent.tokens:,} tokens")
            print(f"{leases.messages} messages, one for {spent.samples / leases.messages:.0f} samples")
    finally:
        ray.shutdown()
        cluster.shutdown()


def kill_one(pool: LeasedPool, count: int, done: threading.Event) -> None:
    """Kill a worker when a quarter of the budget is spent."""
    while not done.wait(0.2):
        if pool.statistics().spent.samples < count:
            continue
        for holder in pool.leases().holders:
            process = int(holder.rpartition(":")[2])
            if process != os.getpid():
                os.kill(process, signal.SIGKILL)
                print(f"-- killed worker {process}: what it had left comes back, its rows are done again")
                return


def print_outcome(rows: list[dict], count: int, seconds: float) -> None:
    ids = [row["id"] for row in rows]
    failed = [row for row in rows if row["dynscale_error"]]
    right = sum((row["answer"] or "").strip() == row["right"] for row in rows)
    print(f"{len(ids)} rows, {count - len(set(ids))} lost, {len(ids) - len(set(ids))} twice, {len(failed)} failed")
    for row in failed[:3]:
        print("  ", row["dynscale_error"])
    rate = sum(row["dynscale_samples"] for row in rows) / seconds
    print(f"{100 * right / count:.1f}% right, {seconds:.0f} s, {rate:.0f} samples a second")


if __name__ == "__main__":
    main()
