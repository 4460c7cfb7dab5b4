r"""The probabilities of all labels, read from one reply and the probabilities of its tokens.

A reply walks one path through the tokens that could have been written; at each token its server tells what else was
likely there. Up to the token at which the label is certain, whatever else could have been written speaks for the labels
that it may be the beginning of: "Ent" for *entailment* and for *entails*, until their tokens part.

.. math:: P(\text{label}) \propto \sum_{i} \prod_{j<i} p(t_j) \sum_{t} p(t)\, [t_1 \dots t_{i-1} t \text{ begins it}]

What may begin several labels is theirs in proportion to the rest, but for those that a longer token told begins: "1"
beside "10" is the whole of 1. What begins none (another word, a sentence) is left out: such a reply would not be an
answer. Servers tell a few tokens only: what they leave untold is spread evenly over those labels that none of the
tokens told may begin, each at most as likely as the least likely one told. Where less than half of what was told or
left untold speaks for labels, nothing is known of them.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from dynscale_dspy.selection.base import Share, Vote
from dynscale_dspy.selection.labels import BEFORE, Labels

ENOUGH = 0.5
"""The least probability that labels must have together."""
UNITS = 1 << 20
"""Parts of a vote: its shares are whole numbers of them, so that sums of shares are exact in any order."""
LEAST = UNITS >> 10
"""The least share, in parts: an answer that has less of a vote (a thousandth) has none of it."""


def spread(
    vote: Vote, keys: Sequence[Hashable], labels: Labels, shares: Sequence[float], *, is_whole: bool = False
) -> Vote:
    """A vote that counts for each label as much as the sample's language model thought of it.

    Args:
        vote: The sample's vote, for a label.
        keys: The key under which each label votes.
        labels: The labels.
        shares: The probability of each.
        is_whole: Whether nothing was drawn before the label; see :class:`~dynscale_dspy.selection.base.Vote`.

    Example:
        >>> labels = Labels(["yes", "no"])
        >>> told = spread(Vote("yes", "y"), ["y", "n"], labels, [0.75, 0.25])
        >>> [(share.answer, share.weight) for share in told.shares]
        [('yes', 0.75), ('no', 0.25)]
    """
    parts: dict[Hashable, int] = dict.fromkeys((vote.key, *keys), 0)
    answers = {**dict(zip(reversed(keys), reversed(labels.values), strict=True)), vote.key: vote.answer}
    for key, share in zip(keys, shares, strict=True):
        parts[key] += int(share * UNITS)
    kept = {key: max(part, 1) for key, part in parts.items() if part >= LEAST or key == vote.key}
    kept[max(kept, key=lambda key: kept[key])] += UNITS - sum(kept.values())
    ordered = sorted(kept, key=lambda key: -kept[key])
    return replace(
        vote, shares=tuple(Share(answers[key], key, kept[key] / UNITS) for key in ordered), is_whole=is_whole
    )


class Token(NamedTuple):
    """One token of a reply.

    Attributes:
        text: What it says, in UTF-8. A token may end in the middle of a character.
        probability: Its probability, given all before it.
        others: Those of tokens that could have been in its place; it may be among them.
    """

    text: bytes
    probability: float
    others: Mapping[bytes, float]


def probabilities(labels: Labels, tokens: Sequence[Token], reply: str, field: str, said: int) -> list[float] | None:
    """The probability of each label.

    Args:
        labels: The labels.
        tokens: The reply's tokens, and those of thoughts before it if the server tells them.
        reply: The reply, in the framing of one of DSPy's adapters.
        field: The name of the field that holds the label.
        said: The position of the label that the reply was read as.

    Returns:
        Numbers that sum to 1, one for each label; None if that cannot be told: the tokens are not those of the reply,
        the label is not found in it, or labels are not probable there.
    """
    start = begins_at(tokens, reply)
    if start is None:
        return None
    for place in _places(reply.strip().encode("utf-8", "replace"), field):
        found = _Walk(labels, tokens, start + place).run(said)
        if found is not None:
            return found
    return None


def begins_at(tokens: Sequence[Token], reply: str) -> int | None:
    """Where a reply begins in the text of its tokens, in bytes; None if they are not its tokens."""
    text = reply.strip().encode("utf-8", "replace")
    start = b"".join(token.text for token in tokens).rfind(text) if text else -1
    return None if start < 0 else start


class _Walk:
    """One walk along the tokens of a reply, from where the label's field begins."""

    def __init__(self, labels: Labels, tokens: Sequence[Token], begin: int) -> None:
        self._labels = labels
        self._tokens = tokens
        self._begin = begin
        self._mass = [0.0] * len(labels.values)
        self._shared: list[tuple[frozenset[int], float]] = []
        self._lost = 0.0

    def run(self, said: int) -> list[float] | None:
        """The probability of each label; None if the walk does not end at the label that was said."""
        live, reach, offset, so_far = self._labels.all, 1.0, 0, b""
        for token in self._tokens:
            head = token.text[: max(self._begin - offset, 0)]  # what it says before the field begins
            offset += len(token.text)
            if offset <= self._begin:
                continue
            here = self._labels.begun(so_far + token.text[len(head) :]) & live
            own = self._step(token, head, so_far, live, here, reach)
            so_far += token.text[len(head) :]
            live, reach = here, reach * own
            if len(live) <= 1:
                break
        if said not in live or Labels.is_blank(so_far):
            return None
        self._mass[said] += reach  # of labels that go on alike, the reply ends as this one
        return self._result()

    def _step(
        self, token: Token, head: bytes, so_far: bytes, live: frozenset[int], here: frozenset[int], reach: float
    ) -> float:
        """Count what could have been in a token's place; the token's own probability."""
        told = {**token.others}
        told.setdefault(token.text, token.probability)
        total = max(sum(told.values()), 1.0)
        told = {text: probability / total for text, probability in told.items()}
        own = told.pop(token.text)
        seen = set(here)
        begun = {text: self._labels.begun(so_far + text[len(head) :]) & live for text in told if text.startswith(head)}
        # Those that do not start like it would not have begun the field.
        longest = _longest({**begun, token.text: here}, len(head))
        for text, labels in begun.items():
            says = _said_by(text, len(head))
            if says:  # "1" where "10" is told too is not the beginning of 10: that has a token of its own
                labels = frozenset(label for label in labels if longest[label] <= says) or labels
            if labels == live:
                continue  # it leaves everything open
            seen |= labels
            self._count(labels, reach * told[text])
        if here != live:
            untold = max(1.0 - own - sum(told.values()), 0.0)
            unseen = live - seen
            least = min(token.others.values(), default=own)
            each = min(untold / len(unseen), least) if unseen else 0.0
            for label in unseen:
                self._mass[label] += reach * each
            self._lost += reach * (untold - each * len(unseen))
        return own

    def _count(self, labels: frozenset[int], probability: float) -> None:
        if not labels:
            self._lost += probability
        elif len(labels) == 1:
            self._mass[next(iter(labels))] += probability
        else:
            self._shared.append((labels, probability))

    def _result(self) -> list[float] | None:
        known = list(self._mass)
        for labels, probability in self._shared:
            weight = sum(known[label] for label in labels)
            for label in labels:
                part = known[label] / weight if weight > 0 else 1 / len(labels)
                self._mass[label] += probability * part
        total = sum(self._mass)
        if not total > 0 or total < ENOUGH * (total + self._lost):
            return None
        return [mass / total for mass in self._mass]


def _longest(begun: Mapping[bytes, frozenset[int]], head: int) -> dict[int, int]:
    """How much the longest token says that begins a label, by label."""
    longest: dict[int, int] = {}
    for text, labels in begun.items():
        for label in labels:
            longest[label] = max(longest.get(label, 0), _said_by(text, head))
    return longest


def _said_by(text: bytes, head: int) -> int:
    return len(text[head:].lstrip(BEFORE))


def _places(reply: bytes, field: str) -> Iterator[int]:
    """Where the field's value may begin in a reply, the likeliest place first: where DSPy's adapters would find it."""
    name = re.escape(field.encode("utf-8", "replace"))
    chat = rb"(?m)^[ \t]*\[\[\s*##\s*%s\s*##\s*\]\]" % name
    json = rb"(?<!\\)(?:\"%s\"|'%s')\s*:" % (name, name)
    xml = rb"<%s>" % name
    yield from (match.end() for match in re.finditer(chat, reply))
    of_json = [match.end() for match in re.finditer(json, reply)]
    of_xml = [match.end() for match in re.finditer(xml, reply)]
    in_braces = re.match(rb"(?:```\w*\s*)?\{", reply) is not None
    yield from (*reversed(of_json), *of_xml) if in_braces else (*of_xml, *reversed(of_json))
