"""Which samples of a call say nothing new, since they are made of replies that an earlier one is made of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Reply(NamedTuple):
    """One choice of one response of a language model.

    Attributes:
        id: The response's id, as the provider gave it.
        choice: The choice's position in the response, whose choices have one id.
        text: A hash of what it says.
    """

    id: str
    choice: int
    text: int


class Replies:
    """The replies of one call. A gateway that caches answers several equal requests with one reply, under one id.

    Example:
        >>> replies = Replies()
        >>> [replies.repeat([Reply(name, 0, 7)]) for name in ("a", "b", "a")], replies.repeat([])
        ([False, False, True], False)
        >>> replies.contradict([Reply("a", 0, 8)])
        True
    """

    def __init__(self) -> None:
        self._samples: set[tuple[Reply, ...]] = set()
        self._texts: dict[tuple[str, int], int] = {}

    def contradict(self, replies: Sequence[Reply]) -> bool:
        """Whether one of a sample's ids came with another text before, so that ids tell nothing."""
        return any(self._texts.get((reply.id, reply.choice), reply.text) != reply.text for reply in replies)

    def repeat(self, replies: Sequence[Reply]) -> bool:
        """Whether an earlier sample was made of the very same replies; where none are known, it was not."""
        if not replies:
            return False
        self._texts.update(((reply.id, reply.choice), reply.text) for reply in replies)
        same = tuple(sorted(replies))  # samples of one call may make requests side by side
        repeats = same in self._samples
        self._samples.add(same)
        return repeats
