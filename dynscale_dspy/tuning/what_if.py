"""what_if: estimates how other budgets would change answers, from the samples that a pool has recorded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from dynscale_dspy.reporting.history import CallRecord
from dynscale_dspy.selection.base import Vote
from dynscale_dspy.selection.plurality import Plurality

if TYPE_CHECKING:
    from dynscale_dspy.budget.pool import BudgetPool
    from dynscale_dspy.replay import Question, Replay

BUDGETS = (1, 2, 3, 4, 6, 8, 12, 16)
LENGTH = 64
"""Samples of a call in the replay: the recorded ones, then simulated ones."""
NEW = 0.5
"""Weight, in samples, of an answer that the call has not given yet."""


def what_if(
    pool: BudgetPool,
    *,
    budgets: Sequence[float] | None = None,
    replicates: int = 20,
    seed: int = 0,
) -> Replay:
    """Replay a pool's recorded calls at other budgets, with its own policy and with uniform sampling.

    An adaptive run draws few samples for a call that it is sure of, so the recorded samples alone cannot be replayed
    at a larger budget. Each call is continued with simulated samples from a Pólya urn: an answer comes again in
    proportion to its votes, a new one with weight :data:`NEW`. The answer that leads in the end, by plurality, counts
    as right. So "accuracy" here is the share of calls that give the answer of their own long run: it says how more
    samples would change the vote, not what is true. Conditioned samples count like others.

    Args:
        pool: A pool that has answered calls; the latest :data:`~dynscale_dspy.reporting.history.MOST_CALLS` are used.
        budgets: Mean samples a call, 1 to 32; 1 to 16 by default.
        replicates: Random orders of the samples.
        seed: Seeds the simulated samples and the orders.

    Returns:
        A replay of the policies ``"this pool's policy"`` and ``"uniform"``.

    Raises:
        ValueError: If no call was answered.

    Example:
        ```python
        now, twice = (what_if(pool, budgets=[8, 16]).accuracy("this pool's policy", b) for b in (8, 16))
        ```
    """
    from dynscale_dspy.allocation.policies import Uniform
    from dynscale_dspy.replay import Pool, replay

    calls = pool.history.answered
    if not calls:
        raise ValueError("this pool has answered no call yet")
    generator = np.random.default_rng(seed)
    questions = tuple(_continued(str(number), call, generator) for number, call in enumerate(calls))
    return replay(
        Pool("recorded", questions),
        {"this pool's policy": pool.policy, "uniform": Uniform()},
        budgets=list(BUDGETS if budgets is None else budgets),
        replicates=replicates,
        seed=seed,
        with_bounds=False,
    )


def _continued(name: str, call: CallRecord, generator: np.random.Generator) -> Question:
    from dynscale_dspy.replay import Question

    answers = list(call.answers[:LENGTH])
    fresh = 1 + max((answer for answer in answers if answer is not None), default=-1)
    while len(answers) < LENGTH:
        if generator.random() * (len(answers) + NEW) < NEW:
            answers.append(fresh)
            fresh += 1
        else:
            answers.append(answers[generator.integers(len(answers))])
    selection = Plurality().empty()
    for answer in answers:
        selection = selection.add(None if answer is None else Vote(answer, answer))
    winner = selection.winner()
    return Question(
        name,
        tuple(None if answer is None else str(answer) for answer in answers),
        frozenset() if winner is None else frozenset({str(answers[winner])}),
    )
