"""Which of several samples to return: rules of winning compared on recorded samples with known scores.

    python examples/benchmarks/selection.py [FILE ...] [--records POOL ...] [--samples 4 8] [--orders 20]
        [--budgets 3 4 8] [--quick] [--json OUT]

FILE is JSON lines (or .gz), one prompt a line: `{"id", "kind", "prompt", "samples", "scores"}`, where `samples[i]` is
what a model produced and `scores[i]` its measured quality from 0 to 1; kind is "short_text", "code", "record" (samples
are objects) or "list" (lists of lists). Code may have `outputs`, for each sample the texts of what it returned for some
inputs, "!..." where it failed; records and lists a `reference`, by which composed answers are scored, or `references`.
A folder stands for its files. POOL is a file of `dynscale replay` with `{"id", "answers", "gold"}`: ten questions in a
row are taken as the fields of one record. Sets of misspelt names and of rankings, made here, are always measured.

`dynscale_dspy.replay` draws each prompt's samples without replacement in several orders, those of fewer than 50 prompts
in five times as many. "Random" is one sample, "best" the best one. Gains are in points, with 95% bootstrap intervals
over prompts; the halves are prompts by a hash of their ids. "One budget" is the gain of a bandit over all prompts,
which may draw so many samples a prompt on average, over as many for each prompt, under the same rule.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from dynscale_dspy.allocation.confidence import Agreement, chance_alike, chance_right
from dynscale_dspy.allocation.likeness import Likeness
from dynscale_dspy.allocation.policies import KnowledgeGradient
from dynscale_dspy.replay.outputs import Outputs, ScoredPool
from dynscale_dspy.replay.scored import Replayed, replay_calls
from dynscale_dspy.replay.statistics import bootstrap_interval
from dynscale_dspy.selection.answers import Record
from dynscale_dspy.selection.base import Selection, Selector, keys_of
from dynscale_dspy.selection.default import default_selector, told
from dynscale_dspy.selection.fieldwise import Fieldwise
from dynscale_dspy.selection.lists import ElementVote
from dynscale_dspy.selection.medoid import Medoid
from dynscale_dspy.selection.plurality import Plurality
from dynscale_dspy.selection.rankings import Ranking, SameOrder
from dynscale_dspy.selection.similarity import CharacterF, ElementF1, Equal, EqualOutputs, TokenF1
from dynscale_dspy.tuning.reliability import auroc, calibration_error

FEW = 50
"""Prompts of a set below which it is measured in more orders."""


@dataclass(frozen=True)
class Program:
    """Code with the outputs that it was recorded to have."""

    text: str
    outputs: tuple[str | None, ...]


@dataclass(frozen=True)
class Written:
    """A similarity of the text of programs whose outputs are recorded too."""

    similarity: Any

    def prepare(self, answer: Program) -> Any:
        return self.similarity.prepare(answer.text)

    def between(self, one: Any, other: Any) -> float:
        return self.similarity.between(one, other)


def outputs_of(program: Program) -> list[str | None]:
    return list(program.outputs)


# ---- what is measured


def load(path: Path) -> tuple[str, ScoredPool]:
    """The kind of a file and its prompts."""
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as lines:
        rows = [json.loads(line) for line in lines]
    outputs = [Outputs(str(row["id"]), tuple(_answers(row)), tuple(row["scores"]), _scorer(row)) for row in rows]
    return rows[0]["kind"], ScoredPool(path.name.split(".jsonl")[0], tuple(outputs))


def as_records(paths: Sequence[Path], fields: int = 10) -> ScoredPool:
    """Answers to so many questions in a row as one record: fields that have nothing to do with each other."""
    outputs = []
    for path in paths:
        with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as lines:
            rows = [json.loads(line) for line in lines]
        for start in range(0, len(rows) - fields + 1, fields):
            asked = {f"q{place}": row for place, row in enumerate(rows[start : start + fields], 1)}
            drawn = range(min(len(row["answers"]) for row in asked.values()))
            samples = tuple(Record({name: row["answers"][i] for name, row in asked.items()}) for i in drawn)
            score = partial(_share_right, golds={name: row["gold"] for name, row in asked.items()})
            outputs.append(Outputs(f"{path.name}/{start}", samples, tuple(map(score, samples)), score))
    return ScoredPool("answers as records", tuple(outputs))


def _share_right(answer: Mapping[str, Any], golds: Mapping[str, Any]) -> float:
    return float(np.mean([answer[name] == gold for name, gold in golds.items()]))


def _answers(row: Mapping[str, Any]) -> list[Any]:
    samples = row["samples"]
    if row["kind"] == "record":
        return [Record(sample) for sample in samples]
    if row["kind"] == "list":
        return [_as_set(sample) for sample in samples]
    if row["kind"] == "code":
        texts = [sample.removeprefix(row["prompt"]) for sample in samples]
        outputs = row.get("outputs") or [[]] * len(samples)
        return [Program(text, _outputs(said)) for text, said in zip(texts, outputs, strict=True)]
    return samples


def _as_set(rows: Sequence[Sequence[str]]) -> list[tuple[str, str]]:
    """As sets, in small letters."""
    return sorted({(text.lower(), label) for text, label in rows})


def _outputs(said: str | list[str]) -> tuple[str | None, ...]:
    """Recorded outputs; None where a call failed or returned nothing."""
    listed = [said] if isinstance(said, str) else said
    return tuple(None if one.startswith("!") or one == "None" else one for one in listed)


# ---- how a composed answer is scored: as the samples of its file were


def _scorer(row: Mapping[str, Any]) -> Callable[[Any], float] | None:
    if row["kind"] == "record" and "references" in row:
        references = row["references"]
        listed = list(references.values()) if isinstance(references, dict) else references
        return lambda answer: float(np.mean([_words(answer[name], one.get(name)) for name in answer for one in listed]))
    if row["kind"] == "record" and "reference" in row:
        return partial(_share_right, golds=row["reference"])
    if row["kind"] == "list" and "reference" in row:
        return lambda answer: _f1(Counter(set(answer)), Counter(set(_as_set(row["reference"]))))
    return None


def _words(one: str | None, other: str | None) -> float:
    """F1 of words, articles aside."""
    if one is None or other is None:
        return float(one is other)
    counts = [
        Counter(word for word in re.findall("[a-z0-9]+", str(text).lower()) if word not in ("a", "an", "the"))
        for text in (one, other)
    ]
    return _f1(*counts)


def _f1(one: Counter[Any], other: Counter[Any]) -> float:
    return 2 * (one & other).total() / (one.total() + other.total()) if one or other else 1.0


# ---- sets that are made here


def misspelt(prompts: int, seed: int) -> ScoredPool:
    """Names of two words as a hasty writer puts them: a letter or a word amiss now and then, or another name."""
    generator = np.random.default_rng(seed)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))

    def name() -> str:
        return " ".join("".join(generator.choice(letters, size=generator.integers(4, 9))) for _ in range(2))

    def hasty(right: str) -> str:
        at = int(generator.integers(len(right)))
        if right[at] != " " and generator.random() < 0.35:
            right = right[:at] + str(generator.choice(letters)) + right[at + 1 :]
        first, last = right.split(" ", 1)
        return str(generator.choice([right, f"{first} {name()}", f"the {right}", last], p=[0.6, 0.15, 0.15, 0.1]))

    made = []
    for number in range(prompts):
        right, others = name(), [name() for _ in range(3)]
        knows = generator.beta(1.2, 1.2)
        samples = [hasty(right if generator.random() < knows else str(generator.choice(others))) for _ in range(16)]
        f1 = TokenF1()
        scores = [f1.between(f1.prepare(sample), f1.prepare(right)) for sample in samples]
        made.append(Outputs(str(number), tuple(samples), tuple(scores)))
    return ScoredPool("made here: misspelt names", tuple(made))


def ranked(prompts: int, seed: int) -> ScoredPool:
    """Eight items in order, as a hasty judge ranks them: items slip now and then, and one order in six is blind.

    Orders are drawn by insertion (Mallows' model), each prompt with a spread of its own; their score is the share of
    pairs in the right order.
    """
    generator = np.random.default_rng(seed)
    names = ["ash", "birch", "cedar", "elm", "fir", "hazel", "larch", "oak"]
    made = []
    for number in range(prompts):
        right = [names[place] for place in generator.permutation(len(names))]
        spread = generator.uniform(0.3, 0.8)

        def hasty(right: list[str], spread: float) -> list[str]:
            if generator.random() < 1 / 6:
                return [right[place] for place in generator.permutation(len(right))]
            order: list[str] = []
            for name in right:
                chances = spread ** np.arange(len(order), -1, -1.0)
                order.insert(int(generator.choice(len(order) + 1, p=chances / chances.sum())), name)
            return order

        samples, score = [hasty(right, spread) for _ in range(16)], partial(in_order, right=right)
        made.append(Outputs(str(number), tuple(samples), tuple(map(score, samples)), score))
    return ScoredPool("made here: rankings", tuple(made))


def in_order(order: list[str], right: list[str]) -> float:
    alike = SameOrder()
    return alike.between(alike.prepare(order), alike.prepare(right))


# ---- rules


def rules(kind: str, pool: ScoredPool) -> dict[str, Selector]:
    """The rules that a kind of output is tried with: a vote, the library's default, and what can be asked for."""
    one = pool.questions[0].samples[0]
    if kind == "code":
        found: dict[str, Selector] = {
            "plurality": Medoid(Written(Equal())),
            "default": Medoid(Written(CharacterF())),
            "Medoid(TokenF1())": Medoid(Written(TokenF1())),
        }
        if any(any(answer.outputs) for question in pool.questions for answer in question.samples):
            votes = EqualOutputs(run=lambda program: [outputs_of(program)], text=None)
            found["plurality of outputs"] = Medoid(votes)
            found["EqualOutputs(run, text=None)"] = Medoid(EqualOutputs(run=outputs_of, text=None))
            found["EqualOutputs(run)"] = Medoid(EqualOutputs(run=outputs_of, text=Written(CharacterF())))
        return found
    if kind == "record":
        types = dict.fromkeys(one, str)
        composed = told(Fieldwise(compose=True), types)
        return {"plurality": Plurality(), "default": default_selector(types), "Fieldwise(compose=True)": composed}
    if kind == "short_text":
        others: dict[str, Selector] = {"Medoid()": Medoid(), "Medoid(CharacterF())": Medoid(CharacterF())}
        return {"plurality": Plurality(), "default": default_selector({"answer": str}), **others}
    lists = {"plurality": Plurality(), "default": default_selector({"answer": list[str]})}
    if kind == "ranking":
        return {**lists, "Ranking()": Ranking(), "Ranking(compose=True)": Ranking(compose=True)}
    return {**lists, "Medoid(ElementF1())": Medoid(ElementF1()), "ElementVote()": ElementVote()}


# ---- rows


def measured(kind: str, pool: ScoredPool, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """The rows of one set."""
    orders = options.orders * (5 if len(pool.questions) < FEW and not options.quick else 1)
    same = sorted({min(samples, pool.room) for samples in options.samples})
    found: dict[tuple[str, str, int], Replayed] = {}
    for each in replay_calls(
        pool, rules(kind, pool), budgets={*same, *options.budgets}, replicates=orders, seed=options.seed
    ):
        found[each.selector, each.policy, each.budget] = each
    about = {"set": pool.name, "kind": kind, "prompts": len(pool.questions)}
    for samples in same:
        rows = {"random": (pool.means, []), "best": (pool.best(samples), [])}
        for (rule, policy, budget), one in found.items():
            if (policy, budget) == (EVEN, samples):
                rows[rule] = one.scores, one.calls
        for rule, (scores, calls) in rows.items():
            yield {
                **{"table": "same", **about, "samples": samples, "rule": rule, "score": 100 * float(scores.mean())},
                "gain": _gain(scores, pool.means),
                **{f"over {rival}": _gain(scores, rows[rival][0]) for rival in ("plurality", "default")},
                "halves": [_gain(scores[half], pool.means[half]) for half in halves(pool)],
                "halves over plurality": [_gain(scores[half], rows["plurality"][0][half]) for half in halves(pool)],
                **sureness(calls),
            }
    for (rule, policy, budget), one in found.items():
        if policy != EVEN:
            even = found[rule, EVEN, budget].scores
            score = 100 * float(one.scores.mean())
            yield {
                **{"table": "one budget", **about, "samples": budget, "rule": rule, "score": score},
                "gain": _gain(one.scores, even),
                "halves": [_gain(one.scores[half], even[half]) for half in halves(pool)],
            }


EVEN = "uniform"


def halves(pool: ScoredPool) -> list[NDArray[Any]]:
    """The places of the prompts in each half, by a hash of their ids."""
    bits = np.array([hashlib.sha256(question.id.encode()).digest()[0] & 1 for question in pool.questions])
    return [np.flatnonzero(bits == bit) for bit in (0, 1)]


def sureness(calls: Sequence[tuple[Selection, float]]) -> dict[str, float | None]:
    """How well confidence tells good calls, of a score of at least one half, from others."""
    known, sure = Agreement(), []
    for selection, score in calls:
        evidence = selection.evidence()
        if isinstance(evidence, Likeness):
            sure.append((chance_alike(evidence, known.rate()), score))
            if evidence.first is not None:
                known.tell_alike(evidence.first)
        else:
            sure.append((chance_right(evidence, known.rate()), score))  # type: ignore[arg-type]
            keys = keys_of(selection.groups())
            if 0 in keys and 1 in keys:
                known.tell(keys[0], keys[1])
    right, told = [float(score >= 0.5) for _, score in sure], [each for each, _ in sure]
    return {
        "AUROC": auroc(told, right) if 0 < sum(right) < len(right) else None,
        "calibration error": calibration_error(told, right) if right else None,
    }


def _gain(ours: NDArray[Any], theirs: NDArray[Any]) -> list[float] | None:
    """The mean difference in points and the ends of its interval."""
    return [100 * each for each in bootstrap_interval(ours - theirs)] if len(ours) else None


def cpu(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Milliseconds a sample: reading, adding, evidence and index, at 8 samples."""
    generator = np.random.default_rng(0)
    words = ["".join(generator.choice(list("etaoinshrdlu"), size=generator.integers(2, 9))) for _ in range(800)]
    rows = []
    for length in (4, 250):
        texts = [" ".join(generator.choice(words, size=length)) for _ in range(8)]
        rules: dict[str, Callable[[], Selector]] = {
            "plurality": Plurality,
            "medoid, token F1": Medoid,
            "medoid, chrF": partial(Medoid, CharacterF()),
            "plurality, ties by token F1": partial(Plurality, ties=TokenF1()),
        }
        for rule, make in rules.items():
            best, policy, selector = float("inf"), KnowledgeGradient(), make()
            for _ in range(3 if options.quick else 15):
                began, selection = time.process_time(), selector.empty()
                for text in texts:
                    selection = selection.add(selector.read(text))
                    policy.index(selection.evidence())
                    selection.winner()
                best = min(best, time.process_time() - began)
            rows.append({"table": "cost", "words": length, "rule": rule, "ms a sample": 1000 * best / len(texts)})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="*", metavar="FILE", help="recorded samples, or folders of them")
    parser.add_argument(
        "--records", type=Path, nargs="*", default=[], metavar="POOL", help="recorded answers, ten questions a record"
    )
    parser.add_argument("--samples", type=int, nargs="+", default=[4, 8], metavar="N")
    parser.add_argument("--orders", type=int, default=20, metavar="N", help="times each prompt's samples are drawn")
    parser.add_argument(
        "--budgets", type=int, nargs="*", default=[3, 4, 8], metavar="N", help="samples a prompt, on average"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="a few prompts of each, to see that it runs")
    parser.add_argument("--json", type=Path, metavar="OUT")
    options = parser.parse_args()
    if options.quick:
        options.orders = 2
    few = 24 if options.quick else 200
    sets = [("short_text", misspelt(few, options.seed)), ("ranking", ranked(few, options.seed))]
    if options.records:
        sets.append(("record", as_records(options.records)))
    for path in options.files:
        for file in sorted(path.glob("*.jsonl*")) if path.is_dir() else [path]:
            kind, pool = load(file)
            sets.append((kind, ScoredPool(pool.name, pool.questions[:12]) if options.quick else pool))
    rows = [row for kind, pool in sets for row in measured(kind, pool, options)] + cpu(options)
    show(rows)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


TITLES = {
    "same": "As many samples for each prompt",
    "one budget": "One budget, gain over as many for each",
    "cost": "CPU, 8 samples",
}


def show(rows: Sequence[Mapping[str, Any]]) -> None:
    console = Console(width=None if sys.stdout.isatty() else 190)
    for table, title in TITLES.items():
        owned = [row for row in rows if row["table"] == table]
        drawn = Table(title=title)
        columns = [column for column in owned[0] if column not in ("table", "kind")]
        for column in columns:
            drawn.add_column(column, justify="left" if column in ("set", "rule") else "right")
        for row in owned:
            drawn.add_row(*(_cell(row[column]) for column in columns))
        console.print(drawn)


def _cell(value: Any) -> str:
    if isinstance(value, list) and any(isinstance(one, list) for one in value):
        return "; ".join(map(_cell, value))
    if isinstance(value, list):
        return "{:+.1f} [{:+.1f}, {:+.1f}]".format(*value)
    return "" if value is None else f"{value:.2f}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
