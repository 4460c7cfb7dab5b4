"""A language model that chooses between the answers of a call, where a vote alone does not."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from dynscale_dspy.selection.base import Group, Selection, Selector, Vote
from dynscale_dspy.selection.plurality import Plurality


@dataclass(frozen=True)
class Judge:
    """A selector under which another program is shown the answers of a call and chooses.

    Samples vote as under another selector. When the call draws no more, the program is asked twice, with the answers in
    two orders, since language models favour what they read first or last (Zheng et al., arXiv 2306.05685). Each verdict
    is one more vote for the answer that it names. What is returned is still a sample's own prediction. The program is
    asked only where its verdicts can change who wins. The call's pool pays, out of what the program's calls may draw,
    and not out of the first samples of calls that are announced; where it cannot, the vote stands.

    Args:
        program: A DSPy program with the inputs ``task`` (text, the call's inputs) and ``candidates`` (a list of text),
            and the output ``best``: the number of the best one, from 1. None for one that thinks step by step.
        selector: How samples vote before.
        most: How many answers are shown at most: those with most votes.
        weight: What a verdict counts, in samples' votes.

    Raises:
        TypeError: If ``program`` cannot be called, or ``selector`` is a judge itself.
        ValueError: If ``most`` is below 2 or ``weight`` is not above 0.

    Example:
        >>> judge = Judge()
        >>> selection = judge.empty()
        >>> for answer in ("a poem", "a song", "a tale"):
        ...     selection = selection.add(judge.read(answer))
        >>> groups = selection.groups()
        >>> judge.orders(groups), groups[judge.elected(groups, [1, 1])].answer
        (((0, 1, 2), (2, 1, 0)), 'a song')
    """

    program: Any = None
    selector: Selector = field(default_factory=Plurality)
    most: int = 5
    weight: float = 1.0

    def __post_init__(self) -> None:
        if isinstance(self.program, type) or not (self.program is None or callable(self.program)):
            raise TypeError(f"program must be a DSPy program, such as dspy.Predict(...), got {self.program!r}")
        if isinstance(self.selector, Judge):
            raise TypeError(f"selector must say how samples vote, which a judge does not, got {self.selector!r}")
        if isinstance(self.most, bool) or not isinstance(self.most, int) or self.most < 2:
            raise ValueError(f"most must be at least 2, for a judge to choose between, got {self.most!r}")
        if isinstance(self.weight, bool) or not isinstance(self.weight, (int, float)) or not 0 < self.weight < math.inf:
            raise ValueError(f"weight must be above 0, got {self.weight!r}")

    def typed(self, output_types: Mapping[str, Any]) -> Judge:
        """This selector for outputs of these types, by the name of each field that is part of the answer."""
        typed = getattr(self.selector, "typed", None)
        return self if typed is None else replace(self, selector=typed(output_types))

    def read(self, answer: Any) -> Vote | None:
        """What one sample says, as the selector before reads it."""
        return self.selector.read(answer)

    def empty(self) -> Selection:
        """The selection of a call without samples, as the selector before has it."""
        return self.selector.empty()

    def orders(self, groups: Sequence[Group]) -> tuple[tuple[int, ...], ...]:
        """In which orders the answers are to be shown: positions in the groups; none if no verdict can change who wins.

        Args:
            groups: The answers of a call, heaviest first.
        """
        shown = tuple(range(min(self.most, len(groups))))
        if len(shown) < 2 or groups[0].weight - groups[1].weight >= 2 * self.weight:
            return ()
        return shown, shown[::-1]

    def elected(self, groups: Sequence[Group], verdicts: Sequence[int | None]) -> int:
        """The position of the answer that wins; a tie goes to the one that is ahead without verdicts.

        Args:
            groups: The answers of a call, heaviest first.
            verdicts: The position that each verdict is for; None where there was none.
        """
        counts = Counter(verdict for verdict in verdicts if verdict is not None)
        return max(range(len(groups)), key=lambda at: (groups[at].weight + self.weight * counts[at], -at))
