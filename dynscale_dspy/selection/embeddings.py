"""How alike texts are by an embedding model, which is asked for the vectors of many texts at once."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dynscale_dspy.selection.base import Vote
from dynscale_dspy.selection.features import text_of
from dynscale_dspy.selection.prepared import Prepared
from dynscale_dspy.selection.similarity import TokenF1, rounded

Vector = NDArray[np.float64]

_WORDS = TokenF1()


@dataclass(frozen=True)
class Embeddings:
    """Meaning in common: the cosine of the texts' vectors, and 0 where that is negative.

    A call embeds the texts of each round of its samples in one request, and each text once. The pool counts it as a
    request, and no sample; where the pool has none left or the request fails, those texts are compared by their words
    (:class:`~dynscale_dspy.selection.similarity.TokenF1`), as all are that no call has embedded, and
    ``explain(...).selector_reason`` says so.

    Args:
        embedder: Takes a list of texts and returns as many vectors: a ``dspy.Embedder``, or a function of yours such as
            ``SentenceTransformer(...).encode``. Other threads call it.

    Raises:
        ValueError: If it cannot be called, or has to be awaited.

    Example:
        >>> by_length = Embeddings(lambda texts: [[len(text), 1] for text in texts])
        >>> votes = [Vote(text, features=Prepared(by_length.prepare(text))) for text in ("a bird", "the dog", "it")]
        >>> one, other, third = (vote.features.value for vote in embedded(votes) if vote is not None)
        >>> round(by_length.between(one, other), 3), round(by_length.between(one, third), 3)
        (1.0, 0.956)
    """

    embedder: Callable[[list[str]], Any]

    def __post_init__(self) -> None:
        if not callable(self.embedder):
            raise ValueError(
                f"embedder must be a dspy.Embedder or a function of a list of texts that returns their vectors, got "
                f"{self.embedder!r}: dspy.Embedder(model) makes one of a model's name"
            )
        if inspect.iscoroutinefunction(self.embedder):
            raise ValueError(
                f"embedder must return the vectors themselves, and {self.embedder!r} has to be awaited: pass a "
                "function that waits for them, such as lambda texts: asyncio.run(embed(texts))"
            )

    def prepare(self, answer: Any) -> Passage:
        """Its text and its words."""
        return Passage(text_of(answer), _WORDS.prepare(answer), self.embedder)

    def between(self, one: Passage, other: Passage) -> float:
        """The cosine; what the words have in common where one of them has no vector."""
        if one.vector is None or other.vector is None or one.vector.shape != other.vector.shape:
            return _WORDS.between(one.words, other.words)
        return rounded(min(max(float(one.vector @ other.vector), 0.0), 1.0))


@dataclass(frozen=True)
class Passage:
    """A text that is compared by its vector.

    Args:
        text: The text.
        words: Its words.
        embedder: What makes its vector.
        vector: The vector, of length 1; None as long as there is none.
    """

    text: str
    words: frozenset[Hashable]
    embedder: Callable[[list[str]], Any] = field(repr=False)
    vector: Vector | None = field(default=None, repr=False, compare=False)


def embeds(settings: Any) -> bool:
    """Whether a selector compares by embeddings, in any part of it.

    Args:
        settings: The selector, or a setting of one.

    Example:
        >>> embeds(Embeddings(len)), embeds({"summary": (TokenF1(), Embeddings(len))}), embeds(TokenF1())
        (True, True, False)
    """
    if isinstance(settings, Embeddings):
        return True
    if isinstance(settings, Mapping):
        return any(map(embeds, settings.values()))
    if isinstance(settings, (tuple, list)):
        return any(map(embeds, settings))
    if dataclasses.is_dataclass(settings) and not isinstance(settings, type):
        return any(embeds(getattr(settings, each.name)) for each in dataclasses.fields(settings))
    return False


def without_vectors(votes: Iterable[Vote | None]) -> list[Passage]:
    """The texts of some votes that have no vector yet; blank ones need none.

    Args:
        votes: The votes.
    """
    found: list[Passage] = []

    def note(passage: Passage) -> Passage:
        if passage.vector is None and passage.text.strip():
            found.append(passage)
        return passage

    for vote in votes:
        _changed(vote, note)
    return found


def with_vectors(vote: Vote | None, vector_of: Callable[[Passage], Vector | None]) -> Vote | None:
    """A vote with the vectors of its texts.

    Args:
        vote: The vote.
        vector_of: The vector of a text; None if there is none.
    """
    return _changed(vote, lambda passage: replace(passage, vector=vector_of(passage)))


def vectors(embedder: Callable[[list[str]], Any], texts: Sequence[str]) -> list[Vector]:
    """The vectors of some texts, each of length 1.

    Args:
        embedder: What makes them.
        texts: The texts.

    Raises:
        ValueError: If it makes anything else.
        Exception: If it fails.
    """
    made = np.asarray(embedder(list(texts)), dtype=np.float64)
    if made.ndim != 2 or len(made) != len(texts):
        raise ValueError(f"an embedder must return a vector for each of {len(texts)} texts, got shape {made.shape}")
    lengths = np.linalg.norm(made, axis=1)
    if not (np.isfinite(lengths) & (lengths > 0)).all():
        raise ValueError("an embedder returned a vector that is not finite, or of nothing but zeros")
    return list(made / lengths[:, None])


def embedded(votes: Sequence[Vote | None]) -> list[Vote | None]:
    """Votes with the vectors of their texts, which each embedder is asked for once: for votes that no call has read.

    Args:
        votes: The votes.

    Raises:
        Exception: If an embedder fails.
    """
    known: dict[tuple[int, str], Vector] = {}
    for embedder, texts in by_embedder(without_vectors(votes)):
        made = vectors(embedder, texts)
        known |= {(id(embedder), text): vector for text, vector in zip(texts, made, strict=True)}
    return [with_vectors(vote, lambda passage: known.get((id(passage.embedder), passage.text))) for vote in votes]


def by_embedder(passages: Iterable[Passage]) -> list[tuple[Callable[[list[str]], Any], list[str]]]:
    """The different texts that each embedder is to be asked for.

    Args:
        passages: The texts.
    """
    found: dict[int, tuple[Callable[[list[str]], Any], dict[str, None]]] = {}
    for passage in passages:
        found.setdefault(id(passage.embedder), (passage.embedder, {}))[1][passage.text] = None
    return [(embedder, list(texts)) for embedder, texts in found.values()]


def _changed(vote: Vote | None, change: Callable[[Passage], Passage]) -> Vote | None:
    if vote is None or not isinstance(vote.features, Prepared):
        return vote
    value = _mapped(vote.features.value, change)
    # What a text was compared with before it had a vector does not count any more.
    return vote if value is vote.features.value else replace(vote, features=Prepared(value))


def _mapped(value: Any, change: Callable[[Passage], Passage]) -> Any:
    """What is compared of an answer, with a change to all texts in it; itself if there is none."""
    if isinstance(value, Passage):
        return change(value)
    if isinstance(value, tuple):
        parts = [_mapped(part, change) for part in value]
        return value if all(new is old for new, old in zip(parts, value, strict=True)) else tuple(parts)
    return value
