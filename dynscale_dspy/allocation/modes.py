r"""Whether the first sample of a call, drawn at temperature 0, says what votes of others come to, learned from votes.

For a program that answers from a few labels at once, the greedy answer is the most probable label: votes of samples at
another temperature come to it in the end, from below, so that it deserves to count for several of them. But not every
server does what it is asked, and where nothing is at temperature 0 the first sample is one like the others. Take it and
two others, of which exactly two agree. If all three are alike, the first is the odd one out one time in three. If it is
the most probable label, much less often: .18 times, say (with probabilities .45, .25, .2 and .1 of four labels, or .7
and .3 of two). The logarithm of the likelihood ratio of either is summed over such triples (after Wald's sequential
test, 1945), from :data:`PRIOR` on. While the sum is not below 0 the first sample counts for :data:`WEIGHT` votes. The
prior is so small that a single call in which two others agree against it makes it count like them. This is our own, not
the paper's.
"""

from __future__ import annotations

import math

ODD = 0.18
"""How often the most probable label is the odd one out, of those triples of which exactly two agree."""
PRIOR, LEAST, MOST = 0.6, -3.0, 6.0
"""The sum of log likelihood ratios before anything is known, and its bounds."""
WEIGHT = 4.0
"""What it counts then. On the pretrained model that this was chosen on, a vote of 4 samples is then right as often as
the greedy answer, one of 8 within half a point, at temperature 1 (docs/integrated-sampling.md)."""

_TOGETHER = math.log((1 - ODD) / (2 / 3))
_APART = math.log(ODD / (1 / 3))


class Modes:
    """What is known of one program's first samples: whether they say what votes of others come to.

    Attributes:
        evidence: The sum of log likelihood ratios, that they do over that they are samples like others.

    Example:
        >>> modes = Modes()
        >>> modes.weight
        4.0
        >>> modes.tell(first=False, other=True)
        >>> modes.weight
        1.0
    """

    __slots__ = ("evidence",)

    def __init__(self) -> None:
        self.evidence = PRIOR

    def tell(self, *, first: bool, other: bool) -> None:
        """Two other samples of a call have voted.

        Args:
            first: Whether exactly one of them agrees with the first sample.
            other: Whether they agree with each other, and not with the first sample.
        """
        if first != other:
            self.evidence = max(LEAST, min(self.evidence + (_TOGETHER if first else _APART), MOST))

    @property
    def weight(self) -> float:
        """What the vote of a first sample counts, by what is known."""
        return WEIGHT if self.evidence >= 0 else 1.0
