"""What a call's votes say of its language models beside each other."""

from __future__ import annotations

from collections.abc import Hashable, Mapping

from dynscale_dspy.allocation.peers import Peers
from dynscale_dspy.sampling.sample import Sample
from dynscale_dspy.selection.base import Selection, keys_of


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

    def hear(self, sample: Sample, before: Selection, after: Selection) -> None:
        """A sample is finished.

        Args:
            sample: The sample.
            before: The votes without its own.
            after: The votes with its own.
        """
        name = sample.draw.sampler.model
        own = self._voted.setdefault(name, [])
        if sample.vote is None or sample.draw.conditioned or len(own) == 2:
            return
        keys = keys_of(after.groups())
        if sample.draw.index not in keys:
            return  # the selector leaves it out of its groups
        own.append(sample.draw.index)
        if len(own) == 2:
            self._tell(name, keys)
        elif any(voted for other, voted in self._voted.items() if other != name):
            led = before.groups()
            if (len(led) == 1 or led[0].weight > led[1].weight) and led[0].key != keys[sample.draw.index]:
                self._against[name] = led[0].key

    def _tell(self, name: str, keys: Mapping[int, Hashable]) -> None:
        first, second = (keys.get(index) for index in self._voted[name])
        if not any(voted for other, voted in self._voted.items() if other != name):
            self._peers.tell_pair(name, agree=first == second)
        elif name in self._against and second in (first, self._against[name]):
            self._peers.tell_second(name, repeats=second == first)
