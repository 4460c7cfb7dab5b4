"""What a replay of policies says, as text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dynscale_dspy._words import counted

if TYPE_CHECKING:
    from dynscale_dspy.replay.table import Replay


def render(result: Replay) -> str:
    """A table of accuracies by policy and budget for each group, then what was skipped."""
    lines = []
    members: dict[str, int] = {}
    for group in result.groups.values():
        members[group] = members.get(group, 0) + 1
    for group, count in members.items():
        summaries = [summary for summary in result.summaries if summary.group == group]
        owned = [r for r in result.records if result.groups.get(r.pool, r.pool) == group]
        budgets = sorted({record.budget for record in owned})
        width = max(len(summary.policy) for summary in summaries)
        lines.append(f"{group}: {counted(count, 'pool')}, accuracy in % by average budget a query")
        head = "".join(f"{budget:>6g}" for budget in budgets)
        lines.append(f"  {'':{width}}{head}   area  reach@u32  vs uniform at 4")
        for summary in summaries:
            cells = []
            for budget in budgets:
                values = [r.accuracy for r in owned if r.policy == summary.policy and r.budget == budget]
                cells.append(f"{100 * sum(values) / len(values):6.1f}" if values else "     –")
            area = "     –" if summary.area is None else f"{100 * summary.area:6.2f}"
            reached = "never" if summary.reach_uniform32 is None else f"{summary.reach_uniform32:.1f}"
            difference = ""
            if summary.diff_vs_uniform4 is not None:
                difference = f"{100 * summary.diff_vs_uniform4:+.2f}"
                if summary.diff_se is not None:
                    difference += f" ± {100 * summary.diff_se:.2f}"
            lines.append(f"  {summary.policy:{width}}{''.join(cells)} {area} {reached:>10}  {difference}")
        lines.append("")
    for skip in result.skipped:
        lines.append(f"skipped: {skip.pool}: {skip.what}: {skip.why}")
    return "\n".join(lines).rstrip()
