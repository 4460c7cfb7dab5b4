"""The table of recorded samples: every policy over every pool, as Markdown and as a picture.

    python examples/benchmarks/replay_table.py POOL... [--replicates 50] [--jobs 2] [--out table.md] [--plot table.png]

Pools are files of recorded samples, one question a line; ``dynscale replay --help`` says more. The table holds, for
each group of pools, accuracy by average samples a query, the area under that curve, and where uniform voting's
accuracy at 32 is reached.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from dynscale_dspy.replay import Replay, replay
from dynscale_dspy.replay.table import GROUPINGS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pools", nargs="+", metavar="POOL")
    parser.add_argument("--policies", help="names separated by commas; all by default")
    parser.add_argument("--unit", choices=("samples", "tokens"), default="samples")
    parser.add_argument("--mode", choices=("batch", "online"), default="batch")
    parser.add_argument("--replicates", type=int, default=50)
    parser.add_argument("--group-by", choices=GROUPINGS, default="dataset")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--out", type=Path, help="write the Markdown here instead of printing it")
    parser.add_argument("--plot", type=Path)
    arguments = parser.parse_args()
    started = time.perf_counter()
    result = replay(
        arguments.pools,
        arguments.policies.split(",") if arguments.policies else None,
        unit=arguments.unit,
        mode=arguments.mode,
        replicates=arguments.replicates,
        group_by=arguments.group_by,
        jobs=arguments.jobs,
    )
    text = markdown(result) + f"\n{time.perf_counter() - started:.0f} s, {arguments.jobs} processes\n"
    if arguments.out:
        arguments.out.write_text(text)
    else:
        print(text)
    if arguments.plot:
        from dynscale_dspy.replay.plots import plot

        plot(result, arguments.plot)


def markdown(result: Replay) -> str:
    lines = []
    for group in dict.fromkeys(result.groups.values()):
        owned = [record for record in result.records if result.groups.get(record.pool, record.pool) == group]
        budgets = sorted({record.budget for record in owned})
        lines.append(
            f"| {group} | " + " | ".join(f"{budget:g}" for budget in budgets) + " | area | reach | vs uniform |"
        )
        lines.append("|---" * (len(budgets) + 4) + "|")
        for summary in (summary for summary in result.summaries if summary.group == group):
            cells = []
            for budget in budgets:
                values = [r.accuracy for r in owned if r.policy == summary.policy and r.budget == budget]
                cells.append(f"{100 * sum(values) / len(values):.1f}" if values else "–")
            cells.append("–" if summary.area is None else f"{100 * summary.area:.2f}")
            cells.append("never" if summary.reach_uniform32 is None else f"{summary.reach_uniform32:.1f}")
            difference = "–"
            if summary.diff_vs_uniform4 is not None:
                difference = f"{100 * summary.diff_vs_uniform4:+.2f}"
                if summary.diff_se is not None:
                    difference += f" ± {100 * summary.diff_se:.2f}"
            lines.append(f"| {summary.policy} | " + " | ".join([*cells, difference]) + " |")
        lines.append("")
    lines += [f"Skipped: {skip.pool}: {skip.what}: {skip.why}." for skip in result.skipped]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
