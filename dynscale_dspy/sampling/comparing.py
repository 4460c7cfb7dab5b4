"""What a call's votes say of its language models beside each other."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

from dynscale_dspy.allocation.peers import Peers
from dynscale_dspy.sampling.sample import Sample
from dynscale_dspy.selection.base import Group, keys_of


class Comparing:
    """Follows the votes of one call, and tells the program's record what they say of its language models.

    Args:
        peers: The program's record.
    """

    __slots__ = ("_against", "_peers", "_voted")

    def __init__(self, peers: Peers) -> None:
        self._peers = peers
        self._voted: dict[str, list[int]] = {}
        self._against: dict[str, Hashable] = {}

    def hear(self, sample: Sample, before: Sequence[Group], after: Sequence[Group]) -> None:
        """A sample is finished.

        Args:
            sample: The sample.
            before: The answers without its vote, heaviest first.
            after: The answers with its vote.
        """
        if sample.vote is None or sample.draw.conditioned:
            return
        name, keys = sample.draw.sampler.name, keys_of(after)
        if sample.draw.index not in keys:
            return  # the selector leaves it out of its groups
        own = self._voted.setdefault(name, [])
        own.append(sample.draw.index)
        if len(own) == 1 and len(self._voted) > 1:
            leads = len(before) == 1 or (len(before) > 1 and before[0].weight > before[1].weight)
            if leads and before[0].key != keys[sample.draw.index]:
                self._against[name] = before[0].key
        if len(own) == 2:
            self._tell(name, keys)

    def _tell(self, name: str, keys: Mapping[int, Hashable]) -> None:
        first, second = (keys.get(index) for index in self._voted[name])
        if len(self._voted) == 1:
            self._peers.tell_pair(name, agree=first == second)
        elif name in self._against and second in (first, self._against[name]):
            self._peers.tell_second(name, repeats=second == first)
