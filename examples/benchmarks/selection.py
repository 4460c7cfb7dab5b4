"""Which of several samples to return: rules of winning compared on recorded samples with known scores.

    python examples/benchmarks/selection.py [FILE ...] [--samples 4 8] [--orders 20] [--budgets 4 8] [--replays 20]
        [--quick] [--json OUT]

FILE is JSON lines (or .gz), one prompt a line: `{"id", "kind", "prompt", "samples", "scores"}`, where `samples[i]` is
what a model produced and `scores[i]` its measured quality from 0 to 1; kind is "short_text", "code", "record" (samples
are objects) or "list" (lists of lists). Code may have `outputs`, for each sample the texts of what it returned for some
inputs, "!..." where it failed. A set of misspelt names that this program makes itself is always measured.

Each prompt's samples are drawn without replacement in several orders. "Random" is one sample, "oracle" the best one.
Gains are in points, paired by prompt, with 95% bootstrap intervals over prompts. "One budget" compares a bandit over
all prompts, which may draw so many samples a prompt on average, with as many for each prompt, under the same rule.
"""

from __future__ import annotations

import argparse
import gzip
import heapq
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from dynscale_dspy.allocation.confidence import Agreement, chance_alike, chance_right
from dynscale_dspy.allocation.likeness import Likeness
from dynscale_dspy.allocation.policies import KnowledgeGradient
from dynscale_dspy.allocation.repeats import Repeats
from dynscale_dspy.selection.answers import Record
from dynscale_dspy.selection.base import Selection, Selector, Vote
from dynscale_dspy.selection.medoid import Medoid
from dynscale_dspy.selection.plurality import Plurality
from dynscale_dspy.selection.similarity import (
    CharacterF,
    ElementF1,
    Equal,
    EqualOutputs,
    MeanOver,
    TokenF1,
    similarity_of,
)
from dynscale_dspy.tuning.reliability import auroc, calibration_error


@dataclass(frozen=True)
class Prompt:
    """One prompt: its samples as a program would return them, and the score of each."""

    answers: tuple[Any, ...]
    scores: tuple[float, ...]


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


def load(path: Path) -> tuple[str, list[Prompt]]:
    """The kind of a file and its prompts."""
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as lines:
        rows = [json.loads(line) for line in lines]
    return rows[0]["kind"], [Prompt(tuple(_answers(row)), tuple(map(float, row["scores"]))) for row in rows]


def _answers(row: Mapping[str, Any]) -> list[Any]:
    samples = row["samples"]
    if row["kind"] == "record":
        return [Record(sample) for sample in samples]
    if row["kind"] == "list":  # as sets, in small letters
        return [sorted({(text.lower(), label) for text, label in sample}) for sample in samples]
    if row["kind"] == "code":
        texts = [sample.removeprefix(row["prompt"]) for sample in samples]
        outputs = row.get("outputs") or [[]] * len(samples)
        return [Program(text, _outputs(said)) for text, said in zip(texts, outputs, strict=True)]
    return samples


def _outputs(said: str | list[str]) -> tuple[str | None, ...]:
    """Recorded outputs; None where a call failed or returned nothing."""
    listed = [said] if isinstance(said, str) else said
    return tuple(None if one.startswith("!") or one == "None" else one for one in listed)


def misspelt(prompts: int, seed: int) -> list[Prompt]:
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
    for _ in range(prompts):
        right, others = name(), [name() for _ in range(3)]
        knows = generator.beta(1.2, 1.2)
        samples = [hasty(right if generator.random() < knows else str(generator.choice(others))) for _ in range(16)]
        f1 = TokenF1()
        scores = [f1.between(f1.prepare(sample), f1.prepare(right)) for sample in samples]
        made.append(Prompt(tuple(samples), tuple(scores)))
    return made


def rules(kind: str, prompts: Sequence[Prompt]) -> dict[str, Selector]:
    """The rules that a kind of output is tried with."""
    found: dict[str, Selector] = {"plurality": Plurality()}
    if kind == "code":
        chrf, token = Written(CharacterF()), Written(TokenF1())
        found = {
            "plurality": Medoid(Written(Equal())),
            "medoid, token F1": Medoid(token),
            "medoid, chrF": Medoid(chrf),
            "plurality of outputs": Medoid(EqualOutputs(run=lambda program: [outputs_of(program)], text=None)),
        }
        if any(any(answer.outputs) for prompt in prompts for answer in prompt.answers):
            found["medoid, share of equal outputs"] = Medoid(EqualOutputs(run=outputs_of, text=None))
            found["medoid, that and chrF"] = Medoid(EqualOutputs(run=outputs_of, text=chrf))
        return found
    if kind == "record":
        fields = list(prompts[0].answers[0])
        similarities = {
            "equal fields": MeanOver(dict.fromkeys(fields, Equal())),
            "token F1 of fields": MeanOver(dict.fromkeys(fields, TokenF1())),
        }
    elif kind == "list":
        similarities = {"element F1": ElementF1(), "token F1": TokenF1()}
    else:
        similarities = {"token F1": TokenF1(), "chrF": CharacterF()}
    for name, similarity in similarities.items():
        found[f"medoid, {name}"] = Medoid(similarity)
        found[f"plurality, ties by {name}"] = Plurality(ties=similarity_of(similarity))
    return found


# ---- the same number of samples for each prompt


Votes = list[list[Vote | None]]


def read(selector: Selector, prompts: Sequence[Prompt]) -> Votes:
    return [[selector.read(answer) for answer in prompt.answers] for prompt in prompts]


def chosen(selector: Selector, votes: Sequence[Vote | None]) -> tuple[int, Selection]:
    """The place of the winner, the first if none has voted, and the selection."""
    selection = selector.empty()
    for place, vote in enumerate(votes):
        selection = selection.add(vote, sample=place)
    return selection.winner() or 0, selection


def orders(prompts: Sequence[Prompt], count: int, seed: int) -> list[list[np.ndarray]]:
    generator = np.random.default_rng(seed)
    return [[generator.permutation(len(prompt.scores)) for _ in range(count)] for prompt in prompts]


def uniform(selector: Selector, prompts: Sequence[Prompt], samples: int, drawn: Any) -> tuple[np.ndarray, list[Any]]:
    """The mean score of each prompt, and the confidence and the score of every call."""
    votes, known, scores, sure = read(selector, prompts), Agreement(), [], []
    for prompt, of_prompt, in_orders in zip(prompts, votes, drawn, strict=True):
        found = []
        for order in in_orders:
            places = order[:samples]
            winner, selection = chosen(selector, [of_prompt[place] for place in places])
            found.append(prompt.scores[places[winner]])
            evidence = selection.evidence()
            told = chance_alike if isinstance(evidence, Likeness) else chance_right
            sure.append((told(evidence, known.rate()), found[-1]))  # type: ignore[arg-type]
            if isinstance(evidence, Likeness) and evidence.first is not None:
                known.tell_alike(evidence.first)
            elif not isinstance(evidence, Likeness) and None not in (keys := [of_prompt[i] for i in places[:2]]):
                known.tell(*(vote.key for vote in keys if vote is not None))
        scores.append(np.mean(found))
    return np.array(scores), sure


# ---- one budget for all prompts


def shared(selector: Selector, prompts: Sequence[Prompt], budgets: Sequence[int], drawn: Any, replay: int) -> Any:
    """The scores of all prompts after so many samples a prompt on average, each where it is worth most."""
    policy, votes, repeats = KnowledgeGradient(), read(selector, prompts), Repeats()
    selections: list[Selection] = [selector.empty() for _ in prompts]
    counts, spent, heap, found = [0] * len(prompts), 0, [], {}

    def draw(call: int) -> None:
        place, before = drawn[call][replay][counts[call]], selections[call]
        after = selections[call] = before.add(votes[call][place], sample=counts[call])
        counts[call] += 1
        repeats.tell(before.evidence(), after.evidence())
        if counts[call] < len(prompts[call].scores):
            evidence = after.evidence()
            index = policy.index(evidence) * repeats.promise(evidence)
            heapq.heappush(heap, (-index, counts[call], call))

    for call in range(len(prompts)):
        draw(call)
    spent = len(prompts)
    for budget in sorted(budgets):
        while spent < budget * len(prompts) and heap:
            draw(heapq.heappop(heap)[2])
            spent += 1
        winners = [selection.winner() or 0 for selection in selections]
        found[budget] = [prompt.scores[drawn[call][replay][winners[call]]] for call, prompt in enumerate(prompts)]
    return found


# ---- tables


def gain(ours: np.ndarray, theirs: np.ndarray, draws: int = 2000) -> tuple[float, float, float]:
    """The mean difference in points and the ends of its bootstrap interval over prompts."""
    difference, generator = 100 * (ours - theirs), np.random.default_rng(0)
    means = difference[generator.integers(len(difference), size=(draws, len(difference)))].mean(axis=1)
    return float(difference.mean()), float(np.quantile(means, 0.025)), float(np.quantile(means, 0.975))


def shown(found: tuple[float, float, float]) -> str:
    return f"{found[0]:+.1f} [{found[1]:+.1f}, {found[2]:+.1f}]"


def measure(name: str, kind: str, prompts: list[Prompt], options: argparse.Namespace, told: Any) -> None:
    fewest = min(len(prompt.scores) for prompt in prompts)
    drawn = orders(prompts, max(options.orders, options.replays), options.seed)
    random = np.array([np.mean(prompt.scores) for prompt in prompts])
    by_rule = rules(kind, prompts)
    for samples in sorted({min(samples, fewest) for samples in options.samples}):
        few = [of_prompt[: options.orders] for of_prompt in drawn]
        best = [[max(p.scores[i] for i in order[:samples]) for order in few[c]] for c, p in enumerate(prompts)]
        base, _ = uniform(by_rule["plurality"], prompts, samples, few)
        told("same", name, samples, "random", random, None, None, ())
        told("same", name, samples, "oracle", np.mean(best, axis=1), random, base, ())
        for rule, selector in by_rule.items():
            scores, sure = uniform(selector, prompts, samples, few)
            told("same", name, samples, rule, scores, random, base, sure)
    budgets = sorted({budget for budget in options.budgets if budget < 0.75 * fewest})
    for rule, selector in by_rule.items():
        replays = [shared(selector, prompts, budgets, drawn, replay) for replay in range(options.replays)]
        for budget in budgets:
            few = [of_prompt[: options.replays] for of_prompt in drawn]
            theirs, _ = uniform(selector, prompts, budget, few)
            ours = np.mean([replay[budget] for replay in replays], axis=0)
            told("one budget", name, budget, rule, ours, theirs, None, ())


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
    parser.add_argument("files", type=Path, nargs="*", metavar="FILE", help="recorded samples, .jsonl or .jsonl.gz")
    parser.add_argument("--samples", type=int, nargs="+", default=[4, 8], metavar="N")
    parser.add_argument("--orders", type=int, default=20, metavar="N", help="times each prompt's samples are drawn")
    parser.add_argument(
        "--budgets", type=int, nargs="*", default=[4, 8], metavar="N", help="samples a prompt, on average"
    )
    parser.add_argument("--replays", type=int, default=20, metavar="N", help="of one budget")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="a few prompts of each, to see that it runs")
    parser.add_argument("--json", type=Path, metavar="OUT")
    options = parser.parse_args()
    if options.quick:
        options.orders = options.replays = 2
    rows: list[dict[str, Any]] = []

    def told(table: str, name: str, samples: int, rule: str, scores: Any, rival: Any, other: Any, sure: Any) -> None:
        right = [float(score >= 0.5) for _, score in sure]
        row = {
            **{"table": table, "set": name, "prompts": len(scores), "samples": samples, "rule": rule},
            "score": 100 * float(scores.mean()),
            "gain": None if rival is None else gain(scores, rival),
            "over plurality": None if other is None else gain(scores, other),
            "AUROC": auroc([each for each, _ in sure], right) if 0 < sum(right) < len(right) else None,
            "calibration error": calibration_error([each for each, _ in sure], right) if right else None,
        }
        rows.append(row)

    sets = [("made here: misspelt names", "short_text", misspelt(24 if options.quick else 200, options.seed))]
    for path in options.files:
        kind, prompts = load(path)
        sets.append((path.name.split(".jsonl")[0], kind, prompts[:12] if options.quick else prompts))
    for name, kind, prompts in sets:
        measure(name, kind, prompts, options, told)
    console = Console(width=None if sys.stdout.isatty() else 170)
    titles = {"same": "As many samples for each prompt", "one budget": "One budget, gain over as many for each"}
    for table, title in titles.items():
        drawn = Table(title=title)
        columns = ["set", "samples", "rule", "score", "gain", "over plurality", "AUROC", "calibration error"]
        columns = columns if table == "same" else columns[:5]
        for column in columns:
            drawn.add_column(column, justify="left" if column in ("set", "rule") else "right")
        for row in (row for row in rows if row["table"] == table):
            drawn.add_row(*(_cell(row[column]) for column in columns))
        console.print(drawn)
    costs = cpu(options)
    drawn = Table(title="CPU, 8 samples")
    for column in ("words", "rule", "ms a sample"):
        drawn.add_column(column, justify="left" if column == "rule" else "right")
    for row in costs:
        drawn.add_row(str(row["words"]), row["rule"], f"{row['ms a sample']:.2f}")
    console.print(drawn)
    if options.json:
        options.json.write_text(json.dumps(rows + costs, indent=1) + "\n")


def _cell(value: Any) -> str:
    if isinstance(value, tuple):
        return shown(value)
    return "" if value is None else f"{value:.2f}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
