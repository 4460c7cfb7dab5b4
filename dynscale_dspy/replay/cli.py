"""``dynscale replay``: replays policies over recorded pools from a shell."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

from dynscale_dspy import _progress
from dynscale_dspy._shell import Refused, check_writable, positive, whole
from dynscale_dspy.allocation.policies import POLICIES
from dynscale_dspy.replay import models, models_text
from dynscale_dspy.replay.lines import PoolError
from dynscale_dspy.replay.online import ARRIVALS
from dynscale_dspy.replay.outputs import is_scored, load_scored_pool
from dynscale_dspy.replay.pools import load_pool
from dynscale_dspy.replay.scored import Score, replay_scores, selectors_for
from dynscale_dspy.replay.table import BUDGETS, GROUPINGS, replay

T = TypeVar("T")

OF_SCORES = (2, 4, 8)
"""Budgets of which outputs with scores are replayed: with its interval each takes much of a line."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's options to a parser."""
    parser.description = (
        "Replay allocation policies over recorded pools of samples (.jsonl or .jsonl.gz); where samples are outputs "
        "of any type with a score each, rules of winning too."
    )
    parser.add_argument("pools", nargs="+", metavar="POOL", help="recorded samples, one question a line")
    parser.add_argument(
        "--policies",
        metavar="NAME,...",
        help=f"with settings as in ucb:exploration=0.1; all by default: {', '.join(POLICIES)}",
    )
    parser.add_argument(
        "--budgets",
        type=_numbers,
        metavar="N,...",
        help=f"average budgets a query (default: {_told(BUDGETS)}; of outputs with scores {_told(OF_SCORES)})",
    )
    parser.add_argument(
        "--unit", choices=("samples", "tokens"), default="samples", help="what budgets count (default: samples)"
    )
    parser.add_argument(
        "--mode", choices=("batch", "online"), default="batch", help="queries known, or one by one (default: batch)"
    )
    parser.add_argument(
        "--rounds", type=positive, metavar="N", help="batch: at most so many rounds of parallel samples"
    )
    parser.add_argument(
        "--replicates", type=positive, default=50, metavar="N", help="random orders of samples (default: 50)"
    )
    parser.add_argument("--seed", type=whole, default=0, metavar="N", help="fixes these orders (default: 0)")
    about = "what pools are summed up by (default: dataset)"
    parser.add_argument("--group-by", choices=GROUPINGS, default="dataset", help=about)
    parser.add_argument("--json", metavar="OUT", help="write all records and summaries here")
    parser.add_argument("--plot", metavar="OUT.png", help="draw accuracy against budget, and where samples went")
    parser.add_argument("--announced", action="store_true", help="online: the number of queries is known in advance")
    about = "online: queries in flight at a time (default: 1)"
    parser.add_argument("--concurrency", type=positive, default=1, metavar="N", help=about)
    about = "online: order of arrival (default: shuffled)"
    parser.add_argument("--arrivals", choices=ARRIVALS, default="shuffled", help=about)
    parser.add_argument("--no-bounds", action="store_true", help='leave out the bounds marked "not a policy"')
    parser.add_argument("--share", action="store_true", help="one budget for all pools of a group")
    parser.add_argument(
        "--prices",
        type=_numbers,
        metavar="N,...",
        help="several models under one budget: what a token of each costs, in the order of --models; budgets are then "
        f"in samples of the dearest (default: {','.join(f'{budget:g}' for budget in models.BUDGETS)})",
    )
    parser.add_argument(
        "--models", metavar="NAME,...", help="which models; by default every two of them, in either order"
    )
    parser.add_argument(
        "--strategies", metavar="NAME,...", help=f"over several models; all by default: {', '.join(models.STRATEGIES)}"
    )
    parser.add_argument("--jobs", type=positive, default=1, metavar="N", help="processes (default: 1)")


def run(arguments: argparse.Namespace) -> None:
    """Run the command.

    Raises:
        Refused: If it cannot be run as it was given.
    """
    check_writable("--json", arguments.json)
    check_writable("--plot", arguments.plot)
    if arguments.plot:
        try:
            import matplotlib  # noqa: F401  # before minutes of work, not after
        except ImportError:
            raise Refused("--plot needs Matplotlib: pip install 'dynscale-dspy[plots]'") from None
    try:
        scored = [is_scored(pool) for pool in arguments.pools]
    except (PoolError, OSError) as error:
        raise Refused(_words_of(error)) from error
    if arguments.prices or arguments.models:
        _models(arguments)
        return
    if any(scored):
        if not all(scored):
            raise Refused("some pools have scores and some have right answers: replay them apart")
        _scores(arguments)
        return
    # Pools, how many there are, and the time to go.
    bar = _progress.bar(len(arguments.pools), "pool", leave=False, label="replay")

    def tell(pool: str) -> None:
        bar.set_postfix_str(pool, refresh=False)
        bar.update()

    try:
        result = replay(
            arguments.pools,
            arguments.policies.split(",") if arguments.policies else None,
            budgets=arguments.budgets or list(BUDGETS),
            unit=arguments.unit,
            mode=arguments.mode,
            rounds=arguments.rounds,
            replicates=arguments.replicates,
            seed=arguments.seed,
            group_by=arguments.group_by,
            announced=arguments.announced,
            concurrency=arguments.concurrency,
            arrivals=arguments.arrivals,
            with_bounds=not arguments.no_bounds,
            share=arguments.share,
            jobs=arguments.jobs,
            progress=tell,
        )
    except (PoolError, ValueError, OSError) as error:
        raise Refused(_words_of(error)) from error
    finally:
        bar.close()
    sys.stdout.write(f"{result}\n")
    if arguments.json:
        result.save(arguments.json)
    if arguments.plot:
        from dynscale_dspy.replay.plots import plot

        plot(result, arguments.plot)


def _models(arguments: argparse.Namespace) -> None:
    """Replay several models under one budget."""
    if not arguments.prices:
        raise Refused("--models needs --prices, one for each: --models A,B --prices 1,10")
    names = (arguments.strategies or ",".join(models.STRATEGIES)).split(",")
    unknown = [name for name in names if name not in models.STRATEGIES]
    if unknown:
        raise Refused(f"no strategy {unknown[0]!r}: there are {', '.join(models.STRATEGIES)}")
    try:
        sets = models.shared(load_pool(path) for path in arguments.pools)
        chosen = arguments.models.split(",") if arguments.models else None
        groups = [each.of(group) for each in sets for group in models.groups(each, chosen, len(arguments.prices))]
        if not groups:
            raise Refused("no questions that these models have all answered: pools are named SOURCE__MODEL__DATASET")
        compare = partial(
            models.compare,
            prices=arguments.prices,
            strategies={name: models.STRATEGIES[name] for name in names},
            budgets=arguments.budgets or models.BUDGETS,
            replicates=arguments.replicates,
            seed=arguments.seed,
        )
        done = models.all_of(compare, groups, jobs=arguments.jobs)
        found = list(_watched(done, len(groups), "group"))
    except (PoolError, ValueError, OSError) as error:
        raise Refused(_words_of(error)) from error
    sys.stdout.write(models_text.render(found))
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(models_text.values(found), indent=1), encoding="utf-8")
    if arguments.plot:
        from dynscale_dspy.replay.plots import draw_models

        draw_models(found, arguments.plot)


def _scores(arguments: argparse.Namespace) -> None:
    """Replay outputs that have scores."""
    asked = {"--unit tokens": arguments.unit == "tokens", "--mode online": arguments.mode == "online"}
    asked |= {"--rounds": arguments.rounds is not None, "--share": arguments.share, "--plot": bool(arguments.plot)}
    for option, is_asked in asked.items():
        if is_asked:
            raise Refused(f"{option} is not for outputs with scores: these are replayed in batch, in samples")
    policies = arguments.policies.split(",") if arguments.policies else ["uniform", "knowledge_gradient"]
    rows: list[Score] = []
    try:
        for path in _watched(arguments.pools, len(arguments.pools), "pool"):
            pool = load_scored_pool(path)
            rows += replay_scores(
                pool,
                selectors_for(pool),
                policies=policies,
                budgets=[int(budget) for budget in arguments.budgets or OF_SCORES],
                replicates=arguments.replicates,
                seed=arguments.seed,
            )
    except (PoolError, ValueError, OSError) as error:
        raise Refused(_words_of(error)) from error
    sys.stdout.write(render_scores(rows))
    if arguments.json:
        Path(arguments.json).write_text(json.dumps([vars(row) for row in rows], indent=1), encoding="utf-8")


def _words_of(error: Exception) -> str:
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f"{error.filename}: {error.strerror}"
    return str(error)


def _watched(things: Iterable[T], total: int, unit: str) -> Iterator[T]:
    """The things, and how many of them are done."""
    bar = _progress.bar(total, unit, leave=False, label="replay")
    try:
        for thing in things:
            yield thing
            bar.update()
    finally:
        bar.close()


def render_scores(rows: Sequence[Score]) -> str:
    """Scores as text: for each pool a table of its rules of winning by policy and budget."""
    lines = []
    for pool in dict.fromkeys(row.pool for row in rows):
        owned = [row for row in rows if row.pool == pool]
        budgets = sorted({row.budget for row in owned})
        ways = list(dict.fromkeys((row.selector, row.policy) for row in owned))
        width = max(len(_way(*way)) for way in ways)
        lines.append(f"{pool}: score in % by average samples a question, and points over a random sample")
        lines.append(f"  {'':{width}}" + "".join(f"{budget:>8}{'':22}" for budget in budgets).rstrip())
        for way in ways:
            found = {row.budget: row for row in owned if (row.selector, row.policy) == way}
            cells = ""
            for budget in budgets:
                row = found.get(budget)
                gain = ""
                if row is not None and row.high > row.low:
                    gain = f"{100 * row.gain:+.1f} [{100 * row.low:+.1f}, {100 * row.high:+.1f}]"
                cells += f"{'–' if row is None else f'{100 * row.score:.1f}':>8}  {gain:20}"
            lines.append(f"  {_way(*way):{width}}{cells}".rstrip())
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def _way(selector: str, policy: str) -> str:
    return f"{selector}; {policy}" if policy else selector


def _told(budgets: Sequence[float]) -> str:
    return ",".join(f"{budget:g}" for budget in budgets)


def _numbers(text: str) -> Sequence[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected numbers separated by commas, got {text!r}") from None
