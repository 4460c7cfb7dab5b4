"""What a check found: values, and the same as text, as HTML and as JSON."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dynscale_dspy.allocation.costs import Cost
from dynscale_dspy.config import PoolSettings, ScalingSettings
from dynscale_dspy.reporting import html as pages
from dynscale_dspy.reporting.text import amount, count, harmless
from dynscale_dspy.tuning.paired import Interval
from dynscale_dspy.tuning.verdict import Spending, Way, decide, share, span_of

SPENT = ("samples", "requests", "cached_requests", "tokens", "dollars")
"""What :meth:`Check.as_dict` tells of the check's own cost. Requests that DSPy's cache answered are among all."""


@dataclass(frozen=True)
class CheckRow:
    """One way to answer the calls, as a check measured it.

    Args:
        name: ``plain``, the program as it is; ``greedy``, at temperature 0; ``vote of 4``; ``Integrated of 4``.
        accuracy: Mean score of the labelled calls; None without labels, or if these are but the ones that tell a gain.
        gain: Mean score over that of the better single run; None for that run itself, and without labels. The intervals
            of all ways of several samples hold together.
        changed: The share of all calls whose answer is another one than the greedy run's.
        agreement: How often two samples of a call agree; None for a single run.
        spending: What a call costs.
        times: That cost over the better single run's.
        settings: What makes it so: ``DynScaling(program, **row.settings)``.
    """

    name: str
    accuracy: Interval | None
    gain: Interval | None
    changed: Interval
    agreement: float | None
    spending: Spending
    times: float
    settings: Mapping[str, Any] = field(repr=False)


@dataclass(frozen=True, repr=False)
class Check:
    """What :func:`~dynscale_dspy.tuning.check` found. ``print`` and notebooks show the table and the sentence.

    Args:
        sentence: Whether scaling is worth it, in a sentence.
        recommended: The way to take.
        rows: Every way that was measured.
        program: The program's name.
        calls: How many calls were made each way.
        labelled: How many of them have a label, or a score.
        disagreements: Positions of the examples on which not all ways agree. All differences in accuracy come from
            these: without labels, they are the ones worth labelling.
        cost_unit: What costs are compared in: dollars if they are known, else tokens, else requests.
        spent: What the check has cost.
        notes: What was left out, and why.
    """

    sentence: str
    recommended: CheckRow
    rows: tuple[CheckRow, ...]
    program: str
    calls: int
    labelled: int
    disagreements: tuple[int, ...]
    cost_unit: str
    spent: Cost
    notes: tuple[str, ...] = ()

    @property
    def settings(self) -> dict[str, Any]:
        """The settings of the recommended way: ``DynScaling(program, **check.settings)``."""
        return dict(self.recommended.settings)

    def as_dict(self) -> dict[str, Any]:
        """Everything as JSON values."""
        found = {each.name: getattr(self, each.name) for each in dataclasses.fields(self)}
        spent = {unit: getattr(self.spent, unit) for unit in SPENT}
        changes = {
            "recommended": self.recommended.name,
            "rows": [_row_as_dict(row) for row in self.rows],
            "spent": spent,
        }
        return {**found, **changes, "disagreements": list(self.disagreements), "notes": list(self.notes)}

    def __repr__(self) -> str:
        return f"Check({self.sentence!r}, settings={self.settings!r})"

    def __str__(self) -> str:
        return _text(self)

    def _repr_html_(self) -> str:
        return _html(self)

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        printer.text(str(self))


def concluded(
    ways: Sequence[Way],
    *,
    own: Mapping[str, Any],
    program: str,
    spent: Cost,
    notes: Sequence[str],
) -> Check:
    """What the ways come to together.

    Args:
        ways: As for :func:`~dynscale_dspy.tuning.verdict.decide`, but with a score for each example: not a number where
            the metric cannot judge it.
        own: Settings that all ways have in common.
        program: The program's name.
        spent: What the check has cost.
        notes: What was left out, and why.
    """
    places = range(len(ways[0].scores))
    labelled = [place for place in places if any(not math.isnan(way.scores[place]) for way in ways)]
    disagreements = [place for place in places if any(way.changed[place] for way in ways)]
    # Where all ways agree they score the same, whatever the label would be.
    needless = len(labelled) < len(places) and bool(labelled) and set(disagreements) <= set(labelled)
    scored = places if needless else labelled
    compared = [
        # What cannot be judged, where another answer to the same can, is not right.
        dataclasses.replace(
            way, scores=tuple(0.0 if math.isnan(way.scores[place]) else way.scores[place] for place in scored)
        )
        for way in ways
    ]
    verdict = decide(compared)
    span = span_of(compared)
    rows = {
        way.name: CheckRow(
            name=way.name,
            accuracy=share(way.scores, span) if labelled and not needless else None,
            gain=verdict.gains.get(way.name),
            changed=share(way.changed),
            agreement=way.agreement,
            spending=way.spending,
            times=verdict.times[way.name],
            settings={**own, **way.settings},
        )
        for way in compared
    }
    return Check(
        sentence=verdict.sentence,
        recommended=rows[verdict.recommended.name],
        rows=tuple(rows.values()),
        program=program,
        calls=len(places),
        labelled=len(labelled),
        disagreements=tuple(disagreements),
        cost_unit=verdict.unit,
        spent=spent,
        notes=tuple(notes),
    )


def _text(found: Check) -> str:
    """The table, what was left out, and the sentence."""
    head, rows = _table(found)
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = [_title(found)]
    for mark, cells in zip([" ", *_marks(found)], [head, *rows], strict=True):
        first, *others = cells
        told = "  ".join(cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True))
        lines.append(f"{mark} {first.ljust(widths[0])}  {told}".rstrip())
    return harmless("\n".join([*lines, *(f"  ({note})" for note in found.notes), found.sentence]))


def _html(found: Check) -> str:
    """The same for a notebook."""
    head, rows = _table(found)
    chosen = [mark == "*" for mark in _marks(found)]
    return pages.table(found.sentence, _title(found), head, rows, chosen=chosen, below=found.notes)


def _row_as_dict(row: CheckRow) -> dict[str, Any]:
    """A row as JSON values."""
    found: dict[str, Any] = {"name": row.name}
    for name in ("accuracy", "gain", "changed"):
        interval: Interval | None = getattr(row, name)
        found[name] = None if interval is None else _by_name(interval)
    tokens = row.spending.tokens
    found["agreement"] = row.agreement
    return {**found, **_by_name(row.spending), "tokens": tokens, "times": row.times, "settings": _saved(row.settings)}


def _by_name(values: Interval | Spending) -> dict[str, Any]:
    return dict(zip(type(values).__annotations__, values, strict=True))


def _saved(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as JSON values, as a saved program has them; without functions, which it has not either."""
    budget = {"per_call": settings["budget"]}
    pool = PoolSettings(**budget, **({"policy": settings["policy"]} if "policy" in settings else {})).to_json()
    others = {name: value for name, value in settings.items() if name not in ("budget", "policy")}
    scaling = ScalingSettings(**others).to_json()
    saved = {name: value for name, value in scaling.items() if name in others}
    return {"budget": settings["budget"], **saved, **({"policy": pool["policy"]} if "policy" in settings else {})}


def _title(found: Check) -> str:
    cached = found.spent.cached_requests
    cost = f"{count(found.spent.requests - cached, 'request')}, {found.spent.tokens:,} tokens"
    cost += f" (DSPy's cache had {cached:,} more)" if cached else ""
    money = f", {amount(found.spent.dollars, 'dollars')}" if found.spent.nanodollars else ""
    labels = "" if found.labelled == found.calls else f", {found.labelled} labelled"
    return f"{found.program} on {count(found.calls, 'call')}{labels}; the check took {cost}{money}"


def _marks(found: Check) -> list[str]:
    return ["*" if row is found.recommended else " " for row in found.rows]


def _table(found: Check) -> tuple[list[str], list[list[str]]]:
    """The head and the cells; columns of which nothing is known are left out."""
    columns: dict[str, list[str]] = {"": [row.name for row in found.rows]}
    scale = (
        100 if all(row.accuracy is None or 0 <= row.accuracy.low <= row.accuracy.high <= 1 for row in found.rows) else 1
    )
    if any(row.accuracy for row in found.rows):
        columns["right, %" if scale == 100 else "score"] = [_bounds(row.accuracy, scale) for row in found.rows]
    if found.labelled:
        columns["gain"] = [_bounds(row.gain, scale, signed=True) or "(base)" for row in found.rows]
    reference = "greedy" if any(row.name == "greedy" for row in found.rows) else "plain"
    columns[f"not as {reference}, %"] = [_bounds(row.changed, 100) for row in found.rows]
    if not found.labelled:
        columns["agree, %"] = ["" if row.agreement is None else f"{100 * row.agreement:.1f}" for row in found.rows]
    columns["samples"] = [f"{row.spending.samples:.1f}" for row in found.rows]
    columns["requests"] = [f"{row.spending.requests:.1f}" for row in found.rows]
    if all(row.spending.tokens is not None for row in found.rows):
        columns["tokens"] = [f"{row.spending.tokens:,.0f}" for row in found.rows]
    if all(row.spending.dollars is not None for row in found.rows):
        columns["dollars"] = [amount(row.spending.dollars or 0, "dollars") for row in found.rows]
    columns[f"cost in {found.cost_unit}"] = [f"x {row.times:.1f}" for row in found.rows]
    return list(columns), [list(cells) for cells in zip(*columns.values(), strict=True)]


def _bounds(interval: Interval | None, scale: float, *, signed: bool = False) -> str:
    if interval is None:
        return ""
    mean, low, high = (scale * value for value in interval)
    digits = ".1f" if scale == 100 else ".3g"
    sign = "+" if signed else ""
    return f"{mean:{sign}{digits}} [{low:{digits}}, {high:{digits}}]"
