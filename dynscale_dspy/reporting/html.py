"""Pools and explanations as HTML for notebooks, without scripts or network, in the page's own text colour."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from dynscale_dspy.reporting import text
from dynscale_dspy.reporting.pool_report import PoolReport

if TYPE_CHECKING:
    from dynscale_dspy.reporting.explanation import Explanation, SampleReport

MOST_TEXT = 4000
"""Most characters of a field that are shown; the prediction itself has all of them."""

# Greys are mixed from the text's colour, so that one sheet serves light and dark pages of any notebook front end. The
# blue and the orange stand out on both, and colour-blind readers can tell them apart.
_STYLE = """
.dynscale{font:13px/1.45 system-ui,sans-serif;max-width:736px;box-sizing:border-box;padding:.2rem 0;color:inherit;
text-align:left;overflow-wrap:anywhere}
.dynscale *{box-sizing:border-box}
.dynscale .head{font-weight:600;font-size:14px;margin:0 0 .35rem}
.dynscale .quiet{opacity:.75;font-weight:400;font-size:12px}
.dynscale .facts{margin-top:.35rem}
.dynscale .small{font-size:12px;margin:.3rem 0}
.dynscale .label{font-size:12px;opacity:.75;margin:.6rem 0 .15rem}
.dynscale .rows{display:grid;grid-template-columns:fit-content(34%) minmax(48px,1fr) auto;gap:5px 10px;
align-items:center}
.dynscale .row{display:contents}
.dynscale .row>:last-child{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
.dynscale .wide>.row>:last-child{white-space:normal}
.dynscale .wide{grid-template-columns:minmax(96px,1.4fr) minmax(48px,.7fr) minmax(128px,1.6fr)}
.dynscale .bar{display:flex;height:.7rem;border-radius:3px;overflow:hidden;
background:color-mix(in srgb,currentColor 13%,transparent)}
.dynscale .bar i{display:block;height:100%}
.dynscale .a{background:#3b8ec2}.dynscale .b{background:#e08a1e}
.dynscale .dot{display:inline-block;width:.65rem;height:.65rem;border-radius:2px;margin:0 .25rem 0 .5rem}
.dynscale .charts{display:flex;flex-wrap:wrap;gap:0 20px}
.dynscale .charts>div{flex:1 1 170px;min-width:0;max-width:272px}
.dynscale svg{display:block;width:100%;height:auto;overflow:visible}
.dynscale svg text{fill:currentColor;font:10px system-ui,sans-serif}
.dynscale details{border-top:1px solid color-mix(in srgb,currentColor 15%,transparent);padding:.2rem 0}
.dynscale details details{border:0;margin-left:.9rem}
.dynscale summary{cursor:pointer}
.dynscale pre{white-space:pre-wrap;font:12px/1.4 ui-monospace,monospace;margin:.25rem 0 .4rem .9rem;padding:.4rem .6rem;
max-height:20rem;overflow:auto;color:inherit;border-radius:4px;border:0;
background:color-mix(in srgb,currentColor 7%,transparent)}
"""


def pool(report: PoolReport) -> str:
    """A pool: spent and left in each unit, samples per call, spending and price over time, and who spent it."""
    now, history = report.statistics, report.history
    parts = [_head(report.title, text.halt(now))]
    rows = []
    for use in text.uses(now.spent, now.reserved, now.limits):
        bar = _bar([(use.spent / use.limit, "a"), (use.held / use.limit, "b")]) if use.limit else ""
        rows.append(_row(use.unit, bar, str(use)))
    parts.append(_rows(rows))
    parts.append(f'<div class="quiet facts">{escape(", ".join(text.facts(now, history)))}</div>')
    charts = []
    if now.samples_per_call:
        charts.append(_chart("calls by samples drawn", _histogram(now.samples_per_call)))
    if len(history.moments) > 1:
        began = history.moments[0].time
        times = [moment.time - began for moment in history.moments]
        charts.append(_chart("samples spent over time", _curve(times, [m.spent.samples for m in history.moments])))
        priced = [(t, m.price) for t, m in zip(times, history.moments, strict=True) if m.price is not None]
        if text.moves([price for _, price in priced]):
            charts.append(_chart("price over time", _curve([t for t, _ in priced], [p for _, p in priced])))
    if charts:
        parts.append(f'<div class="charts">{"".join(charts)}</div>')
    shown = (("spent by program", text.programs(history)), ("shares and open scopes", text.parts(report.parts)))
    for title, shares in shown:
        if shares:
            parts.append(f'<div class="label">{title}</div>')
            parts.append(
                _rows(
                    (_row(name.replace("->", "→"), _bar([(share, "a")]), told) for name, share, told in shares), "wide"
                )
            )
    return _page(parts)


def explanation(made: Explanation) -> str:
    """A call: its answers with their votes, and for each sample what it saw, thought, answered and cost."""
    quiet = f"{text.count(len(made.samples), 'sample')} in {text.count(made.rounds, 'round')}, {text.cost(made.cost)}"
    low = f", below the {made.min_confidence:g} asked for" if made.is_low else ""
    parts = [
        _head(f"{made.agreement:.0%} agree, confidence {made.confidence:.2f}{low}", quiet),
    ]
    total = sum(votes.total for votes in made.votes) or 1
    rows = []
    for votes in made.votes[: text.MOST_ANSWERS]:
        bar = _bar([(votes.independent / total, "a"), (votes.conditioned / total, "b")])
        rows.append(_row(text.short(votes.answer), bar, f"{votes.independent:g} + {votes.conditioned:g}"))
    parts.append(_rows(rows))
    if len(made.votes) > text.MOST_ANSWERS:
        parts.append(f'<div class="quiet">and {len(made.votes) - text.MOST_ANSWERS} more answers</div>')
    parts.append(
        '<div class="small">votes of samples <span class="dot a"></span>that saw the inputs alone'
        '<span class="dot b"></span>that saw earlier ones</div>'
    )
    samples = "".join(_sample(sample) for sample in made.samples[: text.MOST_SAMPLES])
    parts.append(f"<details><summary>Samples</summary>{samples}</details>")
    return _page(parts)


def _sample(sample: SampleReport) -> str:
    answer = text.short(sample.answer) if sample.key is not None else f"no vote: {sample.problem}"
    if sample.error is not None:  # the type only: a message may hold what does not belong in a notebook that is shared
        answer += f" with {type(sample.error).__name__}"
    inside = []
    for name, value in _items(sample.prediction):
        inside.append(f'<div class="label">{escape(text.said(name))}</div><pre>{escape(_clip(text.said(value)))}</pre>')
    for chain in sample.chain:
        inside.append(f"<details><summary>what it was shown</summary><pre>{escape(_clip(chain))}</pre></details>")
    summary = f'#{sample.index} {escape(answer)} <span class="quiet">{escape("; ".join(text.of_sample(sample)))}</span>'
    return f"<details><summary>{summary}</summary>{''.join(inside)}</details>"


def _page(parts: Iterable[str]) -> str:
    return text.harmless(f'<div class="dynscale"><style>{_STYLE}</style>{"".join(parts)}</div>')


def _items(prediction: Any) -> list[tuple[Any, Any]]:
    """The fields of a prediction, as far as it tells."""
    try:
        return [(name, value) for name, value in prediction.items()] if hasattr(prediction, "items") else []
    except Exception:
        return []


def _head(title: str, quiet: str) -> str:
    return f'<div class="head">{escape(title)} <span class="quiet">{escape(quiet)}</span></div>'


def _row(name: str, bar: str, told: str) -> str:
    return f'<div class="row"><span>{escape(name)}</span><span>{bar}</span><span>{escape(told)}</span></div>'


def _rows(rows: Iterable[str], kind: str = "") -> str:
    # One grid for all rows, so that their bars have the same length.
    return f'<div class="rows {kind}">{"".join(rows)}</div>'


def _bar(shares: Iterable[tuple[float, str]]) -> str:
    filled = "".join(f'<i class="{kind}" style="width:{100 * min(share, 1):.1f}%"></i>' for share, kind in shares)
    return f'<span class="bar">{filled}</span>'


def _chart(label: str, svg: str) -> str:
    return f'<div><div class="label">{escape(label)}</div>{svg}</div>'


def _histogram(counts: Mapping[int, int]) -> str:
    bins = text.histogram(counts)
    width, tallest = 240 / len(bins), max(calls for *_, calls in bins)
    bars = []
    for place, (start, name, calls) in enumerate(bins):
        height = 56 * calls / tallest
        x, wide = place * width, min(width - 2, 28)
        left = x + (width - wide) / 2
        bars.append(
            f'<rect x="{left:.1f}" y="{70 - height:.1f}" width="{wide:.1f}" height="{height:.1f}" rx="1" '
            f'fill="#3b8ec2"><title>{calls} calls drew {name}</title></rect>'
        )
        if place % max(1, len(bins) // 8) == 0:
            bars.append(f'<text x="{x + width / 2:.1f}" y="82" text-anchor="middle">{start}</text>')
        if calls and len(bins) <= 10:
            bars.append(f'<text x="{x + width / 2:.1f}" y="{66 - height:.1f}" text-anchor="middle">{calls}</text>')
    return f'<svg viewBox="0 0 240 86" role="img">{"".join(bars)}</svg>'


def _curve(times: Sequence[float], values: Sequence[float]) -> str:
    span = (times[-1] - times[0]) or 1.0
    top = max(values) or 1.0
    points = " ".join(
        f"{240 * (time - times[0]) / span:.1f},{70 - 56 * value / top:.1f}"
        for time, value in zip(times, values, strict=True)
    )
    return (
        '<svg viewBox="0 0 240 86" role="img"><path d="M0 70H240" stroke="currentColor" opacity=".35"/>'
        f'<polyline points="{points}" fill="none" stroke="#3b8ec2" stroke-width="1.8"/>'
        f'<text x="0" y="82">0</text><text x="240" y="82" text-anchor="end">{span:.3g} s</text>'
        f'<text x="0" y="10">{top:.4g}</text></svg>'
    )


def _clip(value: str) -> str:
    return value if len(value) <= MOST_TEXT else value[:MOST_TEXT] + "\n…"
