r"""How likely the winner of a vote is right, as far as votes alone can tell.

Without a known answer nothing says that a model is right; it can only be seen how often it agrees with itself. That is
a fair forecast where samples reason and answers are open: in 24 recorded pools of real models a sample is right about
as often as another one of its question says the same (0.04 apart in the middle). In 26 pools of multiple choice it is
right less often (0.12 below). So confidence starts from how likely another sample is to agree with the winner,

.. math:: s = \frac{L - 1 + m\, a}{n - 1 + m}

for L of n votes: the first vote names an answer, each other one agrees with it or not, and :math:`m` = 2 votes more
stand for what is known of the program: the rate :math:`a` at which the first two samples of its *other* calls agree.
Before there are any, :math:`a` is 1/2, which errs low. Agreement then counts for more or less by the kind of answers:

.. math:: \mathrm{odds}(\text{right}) = d\, \mathrm{odds}(s)^k

=========================  =====  =======  =========================================================================
answers                    d      k        why
=========================  =====  =======  =========================================================================
of an open range           1      2        errors scatter over it: what is said twice is rarely wrong twice
from a few labels          2/3    1        errors meet: there are few options, and a wrong one attracts
from labels, at once       1      1/5      a model that decides without reasoning repeats itself, right or wrong
=========================  =====  =======  =========================================================================

Where answers are more or less alike, L is how alike the winner is to all samples, its own included, the rate is how
alike the first two samples of a call are, and s itself is the forecast (:func:`chance_alike`).

A sample without a vote may have stood for either side: it counts half a vote for each, and never makes surer. The
constants were chosen on recorded pools, and held on pools left out of the choice; docs/confidence-measured.md has the
figures, and where they miss.
"""

from __future__ import annotations

from collections.abc import Hashable
from enum import Enum

from dynscale_dspy.allocation.likeness import Likeness
from dynscale_dspy.allocation.tally import Tally

PRIOR = 0.5
"""The rate at which samples of a program are taken to agree before any two did or did not."""
PRIOR_CALLS = 4
"""What that is worth, in calls of the program."""
STRENGTH = 2
"""What the program's rate is worth beside a call's own votes, in votes."""
MEMORY = 400
"""Calls after which what is known counts half, so that a program that changes is noticed."""
LABELS, ENOUGH = 10, 20
"""So many different answers at most, over so many calls at least, are taken to be a few labels, whatever their type."""
_LEAST = 1e-3
"""The least chance of agreement, so that an answer with votes is never without any confidence."""


class Answers(Enum):
    """What a program chooses its answers from: how far agreement of its samples can be trusted."""

    OPEN = (1.0, 2.0)
    """Anything: numbers, names, text."""
    CLOSED = (2 / 3, 1.0)
    """A few labels, after some reasoning."""
    AT_ONCE = (1.0, 1 / 5)
    """A few labels, with nothing written before."""

    @property
    def trust(self) -> float:
        """The odds of being right where another sample is as likely to agree as not."""
        return self.value[0]

    @property
    def power(self) -> float:
        """How much agreement counts."""
        return self.value[1]

    def right(self, agrees: float) -> float:
        """How likely an answer is right.

        Args:
            agrees: How likely another sample is to give it too.

        Example:
            >>> [round(kind.right(0.8), 2) for kind in Answers]
            [0.94, 0.73, 0.57]
        """
        odds = self.trust * agrees**self.power
        return odds / (odds + (1 - agrees) ** self.power)


def chance_right(votes: Tally, agreement: float = PRIOR, answers: Answers = Answers.OPEN) -> float:
    """How likely the winner is right, as far as votes alone can tell; 0 when nobody voted.

    Votes may have real weights: what counts is the winner's share of the weight, and how many samples voted.

    Args:
        votes: The call's votes.
        agreement: How often two samples of the program agree, 0 to 1; see :class:`Agreement`.
        answers: What the program chooses its answers from.

    Example:
        >>> [round(chance_right(Tally.of(votes)), 2) for votes in ("A", "AA", "AAAA", "AAAB", "ABCD", "")]
        [0.5, 0.8, 0.94, 0.69, 0.06, 0.0]
        >>> round(chance_right(Tally.of("A"), 0.8, Answers.CLOSED), 2)
        0.73
    """
    if not votes.valid:
        return 0.0
    voters, blanks = votes.voters, votes.blanks
    lead = votes.lead / votes.valid * voters
    said, with_blanks = _another(lead, voters, agreement), _another(lead + blanks / 2, voters + blanks, agreement)
    return answers.right(min(1.0, max(_LEAST, min(said, with_blanks))))


def chance_alike(likeness: Likeness, agreement: float = PRIOR) -> float:
    """How alike another sample is expected to be to the winner, as a forecast of its score; 0 when nobody voted.

    Measured with ``examples/benchmarks/selection.py``. On 250 recorded questions with short free answers it tells right
    from wrong better than votes do (AUROC .90 against .87 at 4 samples) and is off by 0.20, they by 0.30. On code of
    two models, compared by characters, its AUROC is .67 to .71, that of votes .64 to .68; it is off by 0.14 where 77%
    of samples are right, and by 0.48 where 43% are: code of a weak model is wrong alike.

    Args:
        likeness: What the call's votes show.
        agreement: How alike two samples of the program are, 0 to 1; see :class:`Agreement`.

    Example:
        >>> round(chance_alike(Likeness(2.4, 0.3, 3, valid=3)), 2), chance_alike(Likeness())
        (0.6, 0.0)
    """
    if not likeness.valid:
        return 0.0
    voters, blanks = likeness.voters, likeness.blanks
    lead = likeness.lead / likeness.valid * voters
    said, with_blanks = _another(lead, voters, agreement), _another(lead + blanks / 2, voters + blanks, agreement)
    return min(1.0, max(_LEAST, min(said, with_blanks)))


def _another(lead: float, votes: float, agreement: float) -> float:
    """How likely another sample is to agree with the winner."""
    return (lead - 1 + STRENGTH * agreement) / (votes - 1 + STRENGTH)


class Agreement:
    """How often two samples of one program agree, and whether its answers are a few labels. Learned without any answer.

    Of each call two samples are told: the first two, which saw its inputs alone. Further ones would count most the
    calls that a policy samples most, which are those whose samples disagree.

    Example:
        >>> known = Agreement()
        >>> known.rate()
        0.5
        >>> all(known.tell(answer, answer) for answer in "ABCADBCA")
        True
        >>> round(known.rate(), 3), round(known.rate(besides=True), 3)
        (0.833, 0.818)
    """

    __slots__ = ("_agreed", "_calls", "_kept", "_seen")

    def __init__(self) -> None:
        self._agreed = self._kept = 0.0
        self._calls = 0
        self._seen: set[Hashable] = set()

    def tell(self, first: Hashable, second: Hashable) -> bool:
        """What two samples of a call said, and return whether it is the same.

        Args:
            first: The answer key of one.
            second: That of the other.
        """
        agrees = bool(first == second)
        self.tell_alike(float(agrees))
        self._calls += 1
        if len(self._seen) <= LABELS:
            self._seen |= {first, second}
        return agrees

    def tell_alike(self, alike: float) -> float:
        """How alike two samples of a call are, from 0 to 1, where they are not compared by equality, and return it."""
        self._agreed += alike
        self._kept += 1
        if self._kept > MEMORY:
            self._agreed, self._kept = self._agreed / 2, self._kept / 2
        return alike

    def rate(self, *, besides: float | None = None) -> float:
        """How often two samples of a call agree, above 0 and below 1.

        Args:
            besides: Whether the samples of one call agree that was told and is not to count, or how alike they are;
                None for all calls.
        """
        own = besides is not None
        agreed, calls = max(0.0, self._agreed - (besides or 0.0)), max(0.0, self._kept - own)
        return (min(agreed, calls) + PRIOR * PRIOR_CALLS) / (calls + PRIOR_CALLS)

    def answers(self, declared: Answers) -> Answers:
        """What the program chooses from: as its types say, and of an open type what its samples have shown."""
        few = len(self._seen) <= LABELS and self._calls >= ENOUGH
        return Answers.CLOSED if few and declared is Answers.OPEN else declared
