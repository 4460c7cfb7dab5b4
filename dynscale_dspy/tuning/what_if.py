"""what_if: estimates how other budgets would change answers, from the samples that a pool has recorded."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from dynscale_dspy.allocation.policies import Uniform
from dynscale_dspy.replay import Pool, Question, Replay, replay
from dynscale_dspy.reporting.history import CallRecord
from dynscale_dspy.sampling.samplers import GREEDY, PLAIN
from dynscale_dspy.selection.base import Vote
from dynscale_dspy.selection.plurality import Plurality

if TYPE_CHECKING:
    from dynscale_dspy.budget.pool import BudgetPool

BUDGETS = (1, 2, 3, 4, 6, 8, 12, 16)
LENGTH = 64
"""Samples of a call in the replay: the recorded ones, then simulated ones."""
NEW = 0.5
"""Weight, in samples, of an answer that the call has not given yet."""
SINGLE = {PLAIN.name: "plain program", GREEDY.name: "plain program, temperature 0"}
"""The single runs that more samples are to be compared with, and their names in words."""


@dataclass(frozen=True)
class SingleRun:
    """The answers that one sampler gave alone, compared with those of the calls' own long run.

    Args:
        calls: Recorded calls with a sample of this sampler.
        accuracy: The share of them in which its answer is the one of the long run.
    """

    calls: int
    accuracy: float


@dataclass(frozen=True)
class WhatIf(Replay):
    """A replay of a pool's recorded calls, and the single runs among their samples.

    Args:
        single: By sampler, ``"plain"`` and ``"greedy"`` (temperature 0), as far as the calls hold a sample of it.
    """

    single: Mapping[str, SingleRun] = field(default_factory=dict)

    def __str__(self) -> str:
        budgets = sorted({record.budget for record in self.records})
        lines = [f"{'samples a call':30}" + "".join(f"{budget:7g}" for budget in budgets)]
        for name, words in SINGLE.items():
            run = self.single.get(name)
            told = "not recorded" if run is None else f"{run.accuracy:7.1%} of {run.calls} calls, one sample each"
            lines.append(f"{words:30}{told}")
        for policy in dict.fromkeys(record.policy for record in self.records):
            shares = (self.accuracy(policy, budget) for budget in budgets)
            lines.append(f"{policy:30}" + "".join(f"{share:7.1%}" for share in shares))
        return "\n".join([*lines, "share of answers that are those of the calls' own long run, right or wrong"])


def what_if(
    pool: BudgetPool,
    *,
    budgets: Sequence[float] | None = None,
    replicates: int = 20,
    seed: int = 0,
    model: str | None = None,
) -> WhatIf:
    """Replay a pool's recorded calls at other budgets, with its own policy and with uniform sampling.

    An adaptive run draws few samples for a call that it is sure of, so the recorded samples alone cannot be replayed
    at a larger budget. Each call is continued with simulated samples from a Pólya urn: an answer comes again in
    proportion to its votes, a new one with weight :data:`NEW`. The answer that leads in the end, by plurality, counts
    as right. So "accuracy" here is the share of calls that give the answer of their own long run: it says how more
    samples would change the vote, not what is true. Conditioned samples count like others. A pool keeps no text: where
    answers are compared by how alike they are, those of one group count as one (:attr:`CallRecord.answers
    <dynscale_dspy.reporting.history.CallRecord>`), and the leading group stands for the sample nearest to all.

    Args:
        pool: A pool that has answered calls; the latest :data:`~dynscale_dspy.reporting.history.MOST_CALLS` are used.
        budgets: Mean samples a call, 1 to 32; 1 to 16 by default.
        replicates: Random orders of the samples.
        seed: Seeds the simulated samples and the orders.
        model: Where calls draw from several language models, the name of one: what would it have done alone? Only its
            samples are replayed, and the answer that the call gave with all of them counts as right.

    Returns:
        A replay of the policies ``"this pool's policy"`` and ``"uniform"``, with the single runs; ``print`` it for a
        table.

    Raises:
        ValueError: If no call was answered; or if calls draw from several language models and ``model`` is none of
            them, or names one where they do not.

    Example:
        ```python
        now, twice = (what_if(pool, budgets=[8, 16]).accuracy("this pool's policy", b) for b in (8, 16))
        ```
    """
    calls = _of_model(pool.history.answered, model)
    if not calls:
        raise ValueError("this pool has answered no call yet")
    generator = np.random.default_rng(seed)
    questions = tuple(_continued(str(number), call, generator) for number, call in enumerate(calls))
    result = replay(
        Pool("recorded", questions),
        {"this pool's policy": pool.policy, "uniform": Uniform()},
        budgets=list(BUDGETS if budgets is None else budgets),
        replicates=replicates,
        seed=seed,
        with_bounds=False,
    )
    return WhatIf(**vars(result), single=_single_runs(zip(calls, questions, strict=True)))


def _of_model(calls: Sequence[CallRecord], model: str | None) -> list[CallRecord]:
    """The calls, with the samples of one language model alone where they draw from several."""
    names = list(dict.fromkeys(name for call in calls for name in call.models))
    if model is None and not names:
        return list(calls)
    if model is None or model not in names:
        drawn = f"draw from {', '.join(map(repr, names))}: pass model=, one of them" if names else "ask one model each"
        raise ValueError(f"this pool's calls {drawn}, got model={model!r}")
    kept = []
    for call in calls:
        of_model = [answer for name, answer in zip(call.samplers, call.answers, strict=True) if name == model]
        if any(answer is not None for answer in of_model):
            kept.append(replace(call, answers=tuple(of_model), samplers=(model,) * len(of_model)))
    return kept


def _single_runs(calls: Iterable[tuple[CallRecord, Question]]) -> dict[str, SingleRun]:
    """How often each sampler of single runs gave the answer of the long run: its first sample of each call."""
    settled: dict[str, list[bool]] = {}
    for call, question in calls:
        first: dict[str, bool] = {}
        for sampler, answer in zip(call.samplers, call.answers, strict=False):
            name = sampler.partition(" ")[0]  # there may be several kinds of greedy samplers
            if name in SINGLE:
                first.setdefault(name, str(answer) in question.right)
        for name, agrees in first.items():
            settled.setdefault(name, []).append(agrees)
    return {name: SingleRun(len(found), sum(found) / len(found)) for name, found in settled.items()}


def _continued(name: str, call: CallRecord, generator: np.random.Generator) -> Question:
    answers = list(call.answers[:LENGTH])
    fresh = 1 + max((answer for answer in (*answers, call.winner) if answer is not None), default=-1)
    while len(answers) < LENGTH:
        if generator.random() * (len(answers) + NEW) < NEW:
            answers.append(fresh)
            fresh += 1
        else:
            answers.append(answers[generator.integers(len(answers))])
    selection = Plurality().empty()
    for answer in answers:
        selection = selection.add(None if answer is None else Vote(answer, answer))
    leading = selection.winner()
    winner = call.winner if call.models else None if leading is None else answers[leading]
    return Question(
        name,
        tuple(None if answer is None else str(answer) for answer in answers),
        frozenset() if winner is None else frozenset({str(winner)}),
    )
