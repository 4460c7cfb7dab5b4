"""Which of several language models a call still draws from: without those that fail for good, or cost too much."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

import numpy as np

from dynscale_dspy._cached import cached_property
from dynscale_dspy.allocation.learned import Learned
from dynscale_dspy.sampling.escalate import ModelStrategy
from dynscale_dspy.sampling.samplers import ALONE, GREEDY, GREEDY_LABEL, PERMUTED, PLAIN, CallView, Sampler
from dynscale_dspy.sampling.strategies import Strategy

NAMES_TAKEN = (*(each.name for each in (PLAIN, ALONE, GREEDY, GREEDY_LABEL, PERMUTED)), "conditioned")
"""Names of samplers that no language model may have."""


@dataclass(frozen=True)
class Choosing(Strategy):
    """A rule that chooses between language models, and those of them that it chooses between now.

    Args:
        rule: The rule.
        models: A sampler for each language model.
        lost: The names of those that are left out.
    """

    rule: ModelStrategy
    models: tuple[Sampler, ...]
    lost: frozenset[str] = frozenset()

    def without(self, lost: Collection[str]) -> Choosing:
        """The same without some of its language models.

        Args:
            lost: Their names; not those of all.
        """
        return self if self.lost == lost else replace(self, lost=frozenset(lost))

    @property
    def samplers(self) -> tuple[Sampler, ...]:
        """All that the rule may propose, and one for each language model."""
        return tuple({sampler.name: sampler for sampler in (*self.models, *self.whole.samplers)}.values())

    @cached_property
    def names(self) -> frozenset[str]:
        """The names of all of them."""
        return frozenset(model.name for model in self.models)

    @cached_property
    def whole(self) -> Strategy:
        """The strategy where none is lost."""
        return self.rule.over(self.models)

    @cached_property
    def left(self) -> tuple[Sampler, ...]:
        """Those that are not lost."""
        return tuple(model for model in self.models if model.name not in self.lost)

    @cached_property
    def _rest(self) -> Strategy | None:
        """The strategy for those that are left; None for a single one."""
        return self.whole if not self.lost else self.rule.over(self.left) if len(self.left) > 1 else None

    def propose(self, view: CallView, learned: Learned, rng: np.random.Generator) -> Sampler | None:
        """Propose what the rule does of those that are left; the cheapest, as it is, for a call of one sample."""
        if not view.varies:
            by_price = getattr(self._rest, "by_price", None)
            return (self.left if by_price is None else by_price(learned))[0]
        return self.left[0] if self._rest is None else self._rest.propose(view, learned, rng)

    def room(self, pending: int) -> int:
        """As many as the rule allows."""
        return (self._rest or self.whole).room(pending)

    @property
    def learned(self) -> bool:
        """Whether votes of earlier calls decide which sampler is proposed."""
        return self.whole.learned

    def weight(self, sampler: Sampler) -> float:
        """What a vote counts by the rule."""
        return self.whole.weight(sampler)

    def worth(self, sampler: Sampler, learned: Learned) -> float:
        """What a vote counts by the rule, beside one of the language model that is left if it is alone."""
        worth = self.whole.worth(sampler, learned)
        if self._rest is not None:
            return worth
        return worth / (self.whole.worth(self.left[0], learned) or 1.0)

    def told(self, learned: Learned) -> str:
        """The rule, and why it draws as it does, as far as it tells; and what is left out."""
        why = getattr(self._rest or self.whole, "why", None)
        reason = why(learned) if why is not None else ""
        lost = f"; {' and '.join(sorted(self.lost))} left out" if self.lost else ""
        return f"{brief(self.rule)}{f': {reason}' if reason else ''}{lost}"


def brief(rule: ModelStrategy) -> str:
    """A rule in a few words: its ``repr``, without settings where all have their defaults.

    Example:
        >>> from dynscale_dspy.sampling.escalate import Escalate
        >>> brief(Escalate())
        'Escalate()'
    """
    try:
        is_default = rule == type(rule)()
    except TypeError:  # a rule of the user's own, which has none
        is_default = False
    return f"{type(rule).__name__}()" if is_default else repr(rule)
