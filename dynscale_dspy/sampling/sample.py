"""What is to be drawn and what came back."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any

from dynscale_dspy.allocation.costs import Cost
from dynscale_dspy.sampling.replies import Reply
from dynscale_dspy.sampling.samplers import ALONE, Sampler
from dynscale_dspy.selection.base import Vote

SPARED = "not needed"
"""The problem of a sample that was called off, since the vote was decided without it."""

REPEATED = "the same reply"
"""The problem of a sample that is made of the replies of an earlier one, as from a gateway's cache."""

ON_TRIAL = "on trial"
"""The problem of a sample that saw earlier ones, while it is not known whether such samples check them or follow."""


@dataclass(frozen=True)
class Draw:
    """One sample to draw.

    Args:
        index: Position among the call's samples, from 0. It makes the sample distinct and reproducible.
        round: 0 for samples drawn from the inputs alone at the start, else one more than the latest known then.
        shown: Indices of the earlier samples that the chain is made of, in the order shown; empty if independent.
        chain: The text of each predictor's earlier attempts; :func:`~dynscale_dspy.sampling.chain.text_for` finds it.
        prefill: Whether the text begins the model's own message, where the server can go on with it.
        sampler: What draws it.
    """

    index: int
    round: int = 0
    shown: tuple[int, ...] = ()
    chain: Mapping[Hashable, str] = field(default_factory=dict)
    prefill: bool = False
    sampler: Sampler = ALONE

    @property
    def conditioned(self) -> bool:
        """Whether the sample sees earlier ones."""
        return bool(self.chain)

    @property
    def is_plain(self) -> bool:
        """Whether its prompt is the program's own, to the language model that the program asks."""
        return not self.chain and self.sampler.lm is None and self.sampler.demos == "own"


@dataclass(frozen=True)
class Sample:
    """One finished run of the program.

    Args:
        draw: What was asked for.
        prediction: What the program returned, or None if it failed.
        answer: The answer as the program gave it, or None.
        vote: What it says, as the selector read it where the sample ran; None if it casts no vote.
        problem: Why it casts no vote: ``"failed"``, ``"truncated"``, ``"no answer"``, ``"unreadable"``,
            ``"not needed"``, ``"the same reply"``, ``"on trial"``; empty if it votes.
        error: The exception, if it failed.
        permanent: Whether another sample of the call would fail alike.
        trace: DSPy's trace of the run: ``(predictor, inputs, prediction)`` in order.
        usage: Tokens by language model, as DSPy's usage tracker reports them.
        cost: What it was charged.
        saved: What those of its requests that DSPy's cache answered came to when the provider did, where it is told.
        replies: The replies that it is made of; empty if they have no ids.
    """

    draw: Draw
    prediction: Any = None
    answer: Any = None
    vote: Vote | None = None
    problem: str = ""
    error: BaseException | None = None
    permanent: bool = False
    trace: tuple[Any, ...] = ()
    usage: Mapping[str, list[dict[str, Any]]] = field(default_factory=dict)
    cost: Cost = field(default_factory=Cost)
    saved: Cost = field(default_factory=Cost)
    replies: tuple[Reply, ...] = ()

    @property
    def key(self) -> Hashable:
        """The key of its vote: equal keys are one answer. None if it casts no vote."""
        return None if self.vote is None else self.vote.key
