r"""What the language models of a program say beside each other, learned without knowing any answer.

Two things are told, each from votes alone.

*How often two samples of one language model agree.* Of models of like price, the one whose samples agree more is mostly
the one that is right more often: on recorded samples of seven reasoning models it is on AIME, except for one that errs
alike each time; on GPQA, where wrong answers are few and shared, it is not (docs/models-measured.md).

*Whether a dear model stands by what it says against a cheap one.* Take a call in which a cheap model's answer leads,
and the dear model's first vote is for another one. If its second vote repeats the first, it knows something that the
cheap one does not; if it joins the leader, its first vote was chance. A model that knows more repeats itself
:data:`REPEATS` of those times, one that does not joins the leader as often. The logarithm of the likelihood ratio of
either is summed (a sequential test, Wald 1945) from :data:`PRIOR` on: that a dear model is better is what its price
says. While the sum is not below 0, it stands. This is our own, not the paper's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

REPEATS = 0.68
"""How often a second vote repeats the first, of those that do or join the leader, where the model knows more."""
PRIOR, LEAST, MOST = 1.6, -3.0, 6.0
"""The sum of log likelihood ratios before anything is known, and its bounds."""
STRENGTH = 10.0
"""Pairs of samples' worth of belief that one language model agrees with itself as often as all do."""
MOST_RECALLED = 50
"""Pairs of each language model that what was learned elsewhere counts as, at most: it may have changed since."""
MOST_MODELS = 16
"""Language models of which it is recalled."""
_USUAL, _FEW = 0.7, 2.0
"""How often samples of reasoning models agree, and the weight of that in pairs, before anything is known."""
_REPEATED = math.log(REPEATS / (1 - REPEATS))


class Peers:
    """What is known of one program's language models beside each other.

    Example:
        >>> peers = Peers()
        >>> peers.stands("dear"), peers.evidence("dear")
        (True, 1.6)
        >>> for _ in range(3):
        ...     peers.tell_second("dear", repeats=False)
        >>> peers.stands("dear")
        False
    """

    __slots__ = ("_agreed", "_pairs", "_stand")

    def __init__(self) -> None:
        self._pairs: dict[str, int] = {}
        self._agreed: dict[str, int] = {}
        self._stand: dict[str, float] = {}

    def tell_pair(self, name: str, *, agree: bool) -> None:
        """The first two votes of a call are of one language model.

        Args:
            name: Its sampler's.
            agree: Whether they are for one answer.
        """
        self._pairs[name] = self._pairs.get(name, 0) + 1
        self._agreed[name] = self._agreed.get(name, 0) + agree

    def tell_second(self, name: str, *, repeats: bool) -> None:
        """A language model's second vote of a call either repeats its first, or joins the answer that led against it.

        Args:
            name: Its sampler's.
            repeats: Whether it repeats the first.
        """
        told = self.evidence(name) + (_REPEATED if repeats else -_REPEATED)
        self._stand[name] = max(LEAST, min(told, MOST))

    def evidence(self, name: str) -> float:
        """The sum of log likelihood ratios, that a model knows more than cheaper ones over that it does not."""
        return self._stand.get(name, PRIOR)

    def stands(self, name: str) -> bool:
        """Whether a dear language model is taken to know more than the cheaper ones."""
        return self.evidence(name) >= 0

    def pairs(self, name: str) -> int:
        """Of how many pairs its agreement is known."""
        return self._pairs.get(name, 0)

    def belief(self, name: str) -> tuple[float, float]:
        """What is known of how often two samples agree: the parameters of a Beta distribution.

        Its mean lies between what this language model's pairs say and what those of all do.

        Example:
            >>> peers = Peers()
            >>> one, other = peers.belief("one")
            >>> round(one / (one + other), 6)
            0.7
        """
        usual = (sum(self._agreed.values()) + _USUAL * _FEW) / (sum(self._pairs.values()) + _FEW)
        agreed, pairs = self._agreed.get(name, 0), self.pairs(name)
        return agreed + STRENGTH * usual, pairs - agreed + STRENGTH * (1 - usual)

    def agreement(self, name: str) -> float:
        """How often two samples of a language model agree, as far as is known."""
        agreed, not_agreed = self.belief(name)
        return agreed / (agreed + not_agreed)

    def told(self) -> dict[str, Any]:
        """All that is known, as JSON values by language model: pairs, how many of them agreed, and the evidence."""
        names = dict.fromkeys([*list(self._pairs), *list(self._stand)])
        return {name: [self.pairs(name), self._agreed.get(name, 0), self.evidence(name)] for name in names}

    def recall(self, told: Any) -> None:
        """Begin with what was learned elsewhere of the same models. What is none of it is left out.

        Args:
            told: What :meth:`told` gave.

        Example:
            >>> peers, later = Peers(), Peers()
            >>> for _ in range(3):
            ...     peers.tell_second("dear", repeats=False)
            >>> later.recall(peers.told())
            >>> later.stands("dear")
            False
        """
        for name, saved in list(told.items())[-MOST_MODELS:] if isinstance(told, Mapping) else ():
            if not (isinstance(name, str) and isinstance(saved, (list, tuple)) and len(saved) == 3):
                continue
            if any(isinstance(each, bool) or not isinstance(each, (int, float)) for each in saved):
                continue
            pairs, agreed, evidence = saved
            if not (isinstance(pairs, int) and isinstance(agreed, int) and 0 <= agreed <= pairs):
                continue
            if not abs(evidence) < math.inf:
                continue
            if pairs:
                self._pairs[name] = min(pairs, MOST_RECALLED)
                self._agreed[name] = agreed * self._pairs[name] // pairs
            self._stand[name] = float(max(LEAST, min(evidence, MOST)))
