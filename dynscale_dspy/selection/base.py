"""What a rule of winning is: how one sample is read, and what the samples of a call come to together."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from dynscale_dspy.allocation.evidence import Detail, Evidence

if TYPE_CHECKING:
    from dynscale_dspy.allocation.policies import Policy

__all__ = [
    "Choice",
    "Composed",
    "Composing",
    "Evidence",
    "Group",
    "Selection",
    "Selector",
    "Share",
    "Vote",
    "check_policy",
    "composed_of",
    "keys_of",
]


@dataclass(frozen=True)
class Share:
    """The part of one vote that is for one answer.

    Args:
        answer: The answer.
        key: What it votes under.
        weight: Its part of the vote, above 0 and at most 1; a multiple of 2**-20, so that sums are exact.
    """

    answer: Any
    key: Hashable
    weight: float


@dataclass(frozen=True)
class Vote:
    """What one sample says, as a selector reads it. Made where the sample ran; compared by the selection.

    Args:
        answer: The answer as the program gave it.
        key: What votes are compared by, where the selector compares by equality: equal keys are one answer.
        shares: What the sample's language model thought of all answers, where that is known: parts of the vote that
            sum to 1, the answer's own among them. Empty for a vote that is for the answer alone.
        is_whole: Whether the shares are all that the program can say: nothing was drawn before them, so that another
            sample of the same inputs would bring the same.
        features: What is compared of the answer, where the selector compares by similarity.
    """

    answer: Any
    key: Hashable = None
    shares: tuple[Share, ...] = field(default=(), repr=False)
    is_whole: bool = field(default=False, repr=False)
    features: Any = field(default=None, repr=False, compare=False)


@dataclass(frozen=True)
class Cast:
    """One sample's vote as a selection keeps it.

    Args:
        vote: The vote.
        sample: The sample's index among the call's.
        weight: What it counts, exact, so that sums do not depend on their order.
        conditioned: Whether the sample saw earlier ones.
    """

    vote: Vote
    sample: int
    weight: int | Fraction
    conditioned: bool


@dataclass(frozen=True)
class Group:
    """Samples that say the same, as far as the selector tells: for reports, chains and what happens on low confidence.

    Args:
        answer: Their answer, as one of them gave it: the one that speaks for them, if they win.
        key: What the group is known by; equal for the same group in a later selection of the same call.
        independent: Weight of samples that saw the inputs alone.
        conditioned: Weight of samples that saw earlier ones.
        samples: Indices of the samples in it, ascending; none where an answer has shares of votes only.
    """

    answer: Any
    key: Hashable
    independent: float
    conditioned: float
    samples: tuple[int, ...]

    @property
    def weight(self) -> float:
        """Weight of all of them."""
        return self.independent + self.conditioned


@runtime_checkable
class Selection(Protocol):
    """The votes of one call under a selector. An immutable value: adding a vote makes a new one."""

    def add(
        self, vote: Vote | None, *, sample: int | None = None, weight: float = 1.0, conditioned: bool = False
    ) -> Selection:
        """This selection and one more sample.

        Args:
            vote: What the sample says; None if it casts no vote.
            sample: Its index among the call's samples, different for each; by default the number added before.
            weight: What its vote counts, above 0.
            conditioned: Whether it saw earlier samples of the call.
        """
        ...

    def winner(self, *, favour_conditioned: bool = False) -> int | None:
        """Index of the winning sample, whose own prediction is the call's; None while no sample has voted.

        It depends on which samples have voted, not on the order in which they were added.

        Args:
            favour_conditioned: Whether a tie between answers goes to the one with more weight from samples that saw
                earlier ones. By default it goes to the one with more weight from samples that did not.
        """
        ...

    def is_settled(self, pending: int) -> bool:
        """Whether so many more samples, of weight 1 each, cannot change which answer wins, whatever they say."""
        ...

    def evidence(self) -> Evidence:
        """What the bandit sees."""
        ...

    def groups(self) -> Sequence[Group]:
        """The answers, heaviest first; of equal ones the one with the earliest sample first."""
        ...


@runtime_checkable
class Selector(Protocol):
    """A rule of winning. It holds settings only: one object serves all calls of a program.

    Pass one as ``DynScaling(program, selector=...)``. :class:`dynscale_dspy.testing.SelectorLaws` checks what every
    selector must keep to.
    """

    def read(self, answer: Any) -> Vote | None:
        """What one sample says.

        Args:
            answer: The answer as the program gave it: one value, or a dict of several fields. None is the answer None:
                a sample without an answer is not read.

        Returns:
            Its vote; None if it casts none.
        """
        ...

    def empty(self) -> Selection:
        """The selection of a call without samples."""
        ...


@dataclass(frozen=True)
class Choice:
    """A selector, and why it is this one.

    Args:
        selector: The selector.
        why: The reason in a few words, such as ``tags is a list``; empty for plurality by default.
    """

    selector: Selector
    why: str = ""


@dataclass(frozen=True)
class Composed:
    """An answer that is put together from several samples, and that none of them need have given.

    Args:
        answer: The answer, of the type of the samples' answers.
        whose: The sample whose prediction has it in place of its own answer, and whose reasoning goes with it.
    """

    answer: Any
    whose: int


@runtime_checkable
class Composing(Protocol):
    """A :class:`Selection` that may put an answer together, where its user has asked for that."""

    def composed(self, *, favour_conditioned: bool = False) -> Composed | None:
        """The answer that is returned in place of the winner's own; None where the winner's own is.

        Args:
            favour_conditioned: As of :meth:`Selection.winner`.
        """
        ...


def composed_of(selection: Selection, *, favour_conditioned: bool = False) -> Composed | None:
    """The answer that a selection has put together; None if it is not of the kind that does, or has none.

    Args:
        selection: The votes of a call.
        favour_conditioned: As of :meth:`Selection.winner`.
    """
    composed = getattr(selection, "composed", None)  # a check of the protocol takes twenty times as long
    return None if composed is None else composed(favour_conditioned=favour_conditioned)


def keys_of(groups: Sequence[Group]) -> dict[int, Hashable]:
    """The key of each voting sample's group, by the sample's index: equal keys are one answer to the selector."""
    return {sample: group.key for group in groups for sample in group.samples}


_MEANING = {
    Detail.TOP_TWO: "the weights of the two leading answers",
    Detail.COUNTS: "the votes of every answer",
    Detail.ORDER: "the order of the votes",
}


def check_policy(policy: Policy, selector: Selector) -> None:
    """Raise ValueError unless the selector offers what the policy needs.

    Args:
        policy: What decides who is sampled next.
        selector: What decides which answer wins.

    Raises:
        ValueError: If the policy needs more; the message names both and what to change.
    """
    offered = selector.empty().evidence().detail
    if policy.needs > offered:
        raise ValueError(
            f"{policy!r} needs {_MEANING[policy.needs]} (Detail.{Detail(policy.needs).name}), and {selector!r} offers "
            f"only {_MEANING[offered]} (Detail.{Detail(offered).name}): choose a policy that needs no more, such as "
            f"KnowledgeGradient(), or a selector that offers it, such as Plurality()"
        )
