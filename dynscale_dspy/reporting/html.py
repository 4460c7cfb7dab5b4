"""Pools and explanations as HTML for notebooks, without scripts or network, in the page's own text colour.

A notebook of somebody else's is shown without style sheets and without ``<svg>``; GitHub's viewer drops classes too. So
rows are tables, which read well with no style at all, what separates words is text, bars have their colours on them,
and charts are images, which say in words what they show. Dollar signs and backslashes stand in elements of their own:
between two of them MathJax would see a formula.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from dynscale_dspy.reporting import text
from dynscale_dspy.reporting.pool_report import PoolReport

if TYPE_CHECKING:
    from dynscale_dspy.reporting.explanation import Explanation, SampleReport

MOST_TEXT = 4000
"""Most characters of a field that are shown; the prediction itself has all of them."""

BLUE, ORANGE, GREY = "#3b8ec2", "#e08a1e", "#808080"
"""They stand out on light and dark pages alike, and colour-blind readers can tell them apart."""

# Greys are mixed from the text's colour, so that one sheet serves light and dark pages of any notebook front end.
_STYLE = """
.dynscale{font:13px/1.45 system-ui,sans-serif;max-width:736px;box-sizing:border-box;padding:.2rem 0;color:inherit;
text-align:left;overflow-wrap:anywhere}
.dynscale *{box-sizing:border-box}
.dynscale .head{font-weight:600;font-size:14px;margin:0 0 .35rem}
.dynscale .quiet{opacity:.75;font-weight:400;font-size:12px}
.dynscale .facts{margin-top:.35rem}
.dynscale .small{font-size:12px;margin:.3rem 0}
.dynscale .label{font-size:12px;opacity:.75;margin:.6rem 0 .15rem}
.dynscale table.rows{width:100%;margin:0;border:0;border-collapse:collapse;font:inherit;color:inherit}
.dynscale .rows tr.row{border:0;background:none}
.dynscale .rows .row td{border:0;padding:2px 10px 2px 0;text-align:left;vertical-align:middle;max-width:none;
background:none;color:inherit}
.dynscale .rows .row td:first-child{min-width:6em}
.dynscale .rows .row td:nth-child(2){width:50%;min-width:48px}
.dynscale .rows .row td:last-child{padding-right:0;text-align:right;font-variant-numeric:tabular-nums;
overflow-wrap:normal}
.dynscale .wide .row td:nth-child(2){width:22%}
.dynscale .wide .row td:last-child{width:42%}
.dynscale .bar{height:.7rem;line-height:0;white-space:nowrap;border-radius:3px;overflow:hidden;
background:color-mix(in srgb,currentColor 13%,transparent)}
.dynscale .charts{display:flex;flex-wrap:wrap;gap:0 20px}
.dynscale .charts>div{flex:1 1 170px;min-width:0;max-width:272px}
.dynscale img{display:block;width:100%;height:auto;margin:0}
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
        bar = _bar([(use.spent / use.limit, BLUE), (use.held / use.limit, ORANGE)]) if use.limit else ""
        rows.append(_row(use.unit, bar, str(use)))
    parts.append(_rows(rows))
    parts.append(f'<div class="quiet facts">{_text(", ".join(text.facts(now, history)))}</div>')
    charts = []
    if now.samples_per_call:
        charts.append(_chart("calls by samples drawn", *_histogram(now.samples_per_call)))
    if len(history.moments) > 1:
        began = history.moments[0].time
        times = [moment.time - began for moment in history.moments]
        charts.append(_chart("samples spent over time", *_curve(times, [m.spent.samples for m in history.moments])))
        priced = [(t, m.price) for t, m in zip(times, history.moments, strict=True) if m.price is not None]
        if text.moves([price for _, price in priced]):
            charts.append(_chart("price over time", *_curve([t for t, _ in priced], [p for _, p in priced])))
    if charts:
        parts.append(f'<div class="charts">{_NEXT.join(charts)}</div>')
    shown = (
        ("spent by program", text.spenders(history.programs)),
        ("spent by language model", text.spenders(history.models)),
        ("shares and open scopes", text.parts(report.parts)),
    )
    for title, shares in shown:
        if shares:
            parts.append(f'<div class="label">{title}</div>')
            parts.append(
                _rows(
                    (_row(name.replace("->", "→"), _bar([(share, BLUE)]), told) for name, share, told in shares), "wide"
                )
            )
    return _page(parts)


def explanation(made: Explanation) -> str:
    """A call: its answers with their votes, and for each sample what it saw, thought, answered and cost."""
    quiet = f"{text.count(len(made.samples), 'sample')} in {text.count(made.rounds, 'round')}, {text.cost(made.cost)}"
    low = f", below the {made.min_confidence:g} asked for" if made.is_low else ""
    parts = [
        _head(f"{text.agreement(made)}, confidence {made.confidence:.2f}{text.source(made)}{low}", quiet),
    ]
    total = sum(votes.total for votes in made.votes) or 1
    rows = []
    for votes in made.votes[: text.MOST_ANSWERS]:
        bar = _bar([(votes.independent / total, BLUE), (votes.conditioned / total, ORANGE)])
        told = f"{votes.independent:.3g} + {votes.conditioned:.3g}{text.of_models(votes)}"
        rows.append(_row(text.short(votes.answer) + text.versions(votes), bar, told))
    if text.is_grouped(made):
        parts.append(f'<div class="label">{text.answers(made)}</div>')
    parts.append(_rows(rows))
    if len(made.votes) > text.MOST_ANSWERS:
        parts.append(f'<div class="quiet">and {len(made.votes) - text.MOST_ANSWERS} more</div>')
    parts.append(
        f'<div class="small">votes of samples that saw the inputs alone {_dot(BLUE)} '
        f"+ of samples that saw earlier ones {_dot(ORANGE)}</div>"
    )
    parts += [f'<div class="small">{_text(told)}</div>' for told in text.chosen(made)]
    if made.models:
        parts.append('<div class="label">spent by language model</div>')
        models = (_row(text.short(name), _bar([(share, BLUE)]), told) for name, share, told in text.models(made))
        parts.append(_rows(models, "wide"))
    samples = _NEXT.join(_sample(sample) for sample in made.samples[: text.MOST_SAMPLES])
    parts.append(f"<details><summary>Samples</summary>\n{samples}</details>")
    return _page(parts)


def table(
    title: str,
    quiet: str,
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    chosen: Sequence[bool],
    below: Sequence[str] = (),
) -> str:
    """A table of words and numbers.

    Args:
        title: Stands above it.
        quiet: Stands below the title.
        head: The names of the columns.
        rows: The cells of each row; the first one is its name.
        chosen: Whether each row is to stand out.
        below: Sentences that stand below.
    """
    lines = []
    for number, cells in enumerate([head, *rows]):
        stands_out = number == 0 or chosen[number - 1]
        style = f"padding:2px 12px 2px 0;white-space:nowrap{';font-weight:600' if stands_out else ''}"
        aligned = ["left", *["right"] * (len(cells) - 1)]
        told = (
            f'<td style="{style};text-align:{side}">{_text(cell)}</td>'
            for side, cell in zip(aligned, cells, strict=True)
        )
        lines.append(f"<tr>{' '.join(told)}</tr>")
    parts = [_head(title, ""), f'<div class="quiet">{_text(quiet)}</div>']
    parts.append(
        f'<div style="overflow-x:auto"><table style="border:0"><tbody>{_NEXT.join(lines)}</tbody></table></div>'
    )
    parts += [f'<div class="small">{_text(each)}</div>' for each in below]
    return _page(parts)


def _sample(sample: SampleReport) -> str:
    answer = text.short(sample.answer) if sample.key is not None else f"no vote: {sample.problem}"
    if sample.error is not None:  # the type only: a message may hold what does not belong in a notebook that is shared
        answer += f" with {type(sample.error).__name__}"
    inside = []
    for name, value in _items(sample.prediction):
        inside.append(
            f'<div class="label">{_text(text.said(name))}</div>\n<pre>{_text(_clip(text.written(value)))}</pre>'
        )
    for chain in sample.chain:
        inside.append(f"<details><summary>what it was shown</summary>\n<pre>{_text(_clip(chain))}</pre></details>")
    summary = f'#{sample.index} {_text(answer)} <span class="quiet">{_text("; ".join(text.of_sample(sample)))}</span>'
    return f"<details><summary>{summary}</summary>\n{_NEXT.join(inside)}</details>"


def _page(parts: Iterable[str]) -> str:
    # The classes tell MathJax, of either name, to look away from the page as a whole.
    page = f'<div class="dynscale tex2jax_ignore mathjax_ignore"><style>{_STYLE}</style>\n{_NEXT.join(parts)}</div>'
    return text.harmless(page)


_NEXT = "\n"
"""Between two elements, so that they are apart as text too."""


def _text(words: str) -> str:
    """Words as HTML in which nobody finds a formula."""
    return escape(words).replace("$", "<span>$</span>").replace("\\", "<span>\\</span>")


def _items(prediction: Any) -> list[tuple[Any, Any]]:
    """The fields of a prediction, as far as it tells."""
    try:
        return [(name, value) for name, value in prediction.items()] if hasattr(prediction, "items") else []
    except Exception:
        return []


def _head(title: str, quiet: str) -> str:
    # A point between them, for where styles are taken away.
    aside = f' <span class="quiet">· {_text(quiet)}</span>' if quiet else ""
    return f'<div class="head">{_text(title)}{aside}</div>'


def _row(name: str, bar: str, told: str) -> str:
    return f'<tr class="row"><td>{_text(name)}</td> <td width="40%">{bar}</td> <td>{_text(told)}</td></tr>'


def _rows(rows: Iterable[str], kind: str = "") -> str:
    # One table for all rows, so that their bars have the same length.
    return f'<table class="rows {kind}"><tbody>{_NEXT.join(rows)}</tbody></table>'


def _bar(shares: Iterable[tuple[float, str]]) -> str:
    filled = "".join(
        f'<i style="display:inline-block;height:.7em;width:{100 * min(share, 1):.1f}%;background:{colour}"></i>'
        for share, colour in shares
    )
    return f'<span class="bar" style="display:block;min-width:6em">{filled}</span>'


def _dot(colour: str) -> str:
    return f'<i style="display:inline-block;width:.65em;height:.65em;border-radius:2px;background:{colour}"></i>'


def _chart(label: str, shapes: str, words: str) -> str:
    """An image with a heading above it.

    Args:
        label: The heading.
        shapes: What is drawn, in an SVG of 240 by 86.
        words: What it shows, for those who do not see it.
    """
    font = "system-ui,sans-serif"
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="240" height="86" viewBox="0 0 240 86" fill="{GREY}" '
        f'font-family="{font}" font-size="10">{shapes}</svg>'
    )
    source = "data:image/svg+xml;base64," + b64encode(svg.encode()).decode()
    image = f'<img src="{source}" width="240" height="86" alt="{escape(f"{label}: {words}")}" />'
    return f'<div><div class="label">{_text(label)}</div>\n{image}</div>'


def _histogram(counts: Mapping[int, int]) -> tuple[str, str]:
    """Shapes and words of a histogram."""
    bins = text.histogram(counts)
    width, tallest = 240 / len(bins), max(calls for *_, calls in bins)
    bars = []
    for place, (start, _, calls) in enumerate(bins):
        height = 56 * calls / tallest
        x, wide = place * width, min(width - 2, 28)
        left = x + (width - wide) / 2
        where = f'x="{left:.1f}" y="{70 - height:.1f}" width="{wide:.1f}" height="{height:.1f}"'
        bars.append(f'<rect {where} rx="1" fill="{BLUE}"/>')
        if place % max(1, len(bins) // 8) == 0:
            bars.append(f'<text x="{x + width / 2:.1f}" y="82" text-anchor="middle">{start}</text>')
        if calls and len(bins) <= 10:
            bars.append(f'<text x="{x + width / 2:.1f}" y="{66 - height:.1f}" text-anchor="middle">{calls}</text>')
    return "".join(bars), ", ".join(f"{text.count(calls, 'call')} drew {name}" for _, name, calls in bins if calls)


def _curve(times: Sequence[float], values: Sequence[float]) -> tuple[str, str]:
    """Shapes and words of a curve."""
    span = (times[-1] - times[0]) or 1.0
    top = max(values) or 1.0
    points = " ".join(
        f"{240 * (time - times[0]) / span:.1f},{70 - 56 * value / top:.1f}"
        for time, value in zip(times, values, strict=True)
    )
    shapes = (
        f'<path d="M0 70H240" stroke="{GREY}" opacity=".5"/>'
        f'<polyline points="{points}" fill="none" stroke="{BLUE}" stroke-width="1.8"/>'
        f'<text x="0" y="82">0</text><text x="240" y="82" text-anchor="end">{span:.3g} s</text>'
        f'<text x="0" y="10">{top:.4g}</text>'
    )
    return shapes, f"from {values[0]:.4g} to {values[-1]:.4g} in {span:.3g} s, at most {top:.4g}"


def _clip(value: str) -> str:
    return value if len(value) <= MOST_TEXT else value[:MOST_TEXT] + "\n…"
