"""How a sample of one of several language models is drawn, once it is known which of them is asked."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Literal

from dynscale_dspy._fields import OneOfWords, check_fields
from dynscale_dspy.allocation.learned import Learned
from dynscale_dspy.sampling.samplers import CallView, ChainSpec, First, Sampler
from dynscale_dspy.sampling.strategies import may_try

GREEDY_OF, SEEING_OF = "{}, greedy", "{}, conditioned"
"""Names of the samplers of a language model besides its own."""


@dataclass(frozen=True)
class Ways:
    """The ways in which samples of one of several language models are drawn.

    On the lab's two models (600 questions) the large one is right on 52.7% in one sample, on 62.7% at temperature 0,
    and on 68.7% at temperature 0 where it sees what the small one has said, which is right on 49.7%.

    Args:
        first: What draws the first sample of each language model in a call: ``"greedy"``, at temperature 0, or
            ``"own"``, as the others.
        sees: Whether samples see earlier ones of the call, of whichever model, where these contradict each other:
            ``"learned"``: two a call until the program's calls have shown whether such samples check what they see, and
            from then on all or none (:mod:`dynscale_dspy.allocation.trust`); ``"always"``; ``"never"``.
    """

    first: First = "greedy"
    sees: Annotated[Literal["learned", "always", "never"], OneOfWords] = "learned"

    def __post_init__(self) -> None:
        check_fields(self, Ways)

    def of(self, model: Sampler) -> tuple[Sampler, ...]:
        """All samplers of a language model."""
        greedy = (_greedy(model),) if self.first == "greedy" else ()
        seeing = (_seeing(model, None),) if self.sees != "never" else ()
        return (model, *greedy, *seeing)

    def take(self, model: Sampler, view: CallView, learned: Learned, *, may_see: bool = True) -> Sampler:
        """The sampler of the next sample of a language model.

        Args:
            model: The language model.
            view: The call.
            learned: What is known of the program's samples.
            may_see: Whether samples of this model may see earlier ones.
        """
        is_first = model.model not in view.asked
        if may_see and self._sees(view, learned, is_first=is_first):
            # The first to see what is there says what the model thinks of it; others are draws beside it.
            trusted = self.sees == "always" or learned.trust.earned
            return _seeing(model, 0.0 if trusted and not view.seeing and self.first == "greedy" else None)
        return _greedy(model) if is_first and self.first == "greedy" else model

    def counts(self, sampler: Sampler, learned: Learned) -> bool:
        """Whether votes of a sampler count, or are on trial."""
        return self.sees != "learned" or sampler.chain is None or learned.trust.counts

    def _sees(self, view: CallView, learned: Learned, *, is_first: bool) -> bool:
        if self.sees == "never" or view.at_once or not view.leading_two[1]:
            return False  # one answer is nothing to weigh
        if self.sees == "always" or learned.trust.earned:
            return True
        # Its votes on trial, the model is to have one that counts.
        return not is_first and may_try(view, learned)


INDEPENDENT = Ways(first="own", sees="never")
"""All samples of a language model alike, and none sees another."""


def _greedy(model: Sampler) -> Sampler:
    return replace(model, name=GREEDY_OF.format(model.name), temperature=0.0)


def _seeing(model: Sampler, temperature: float | None) -> Sampler:
    return replace(model, name=SEEING_OF.format(model.name), temperature=temperature, chain=ChainSpec())
