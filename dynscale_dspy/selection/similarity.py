"""How alike two answers are, from 0 to 1: equality, words, characters, elements, fields, outputs, a function of yours.

A similarity is made once of each answer, where its sample ran (:meth:`Similarity.prepare`), and compares what was made
(:meth:`Similarity.between`). All similarities are multiples of 2**-20, so that sums are exact and in no order.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import pydantic

from dynscale_dspy.selection.answers import Kind, UnreadableAnswer, canonical, fields_of_model
from dynscale_dspy.selection.features import bag, common_runs, runs, text_of, tokens
from dynscale_dspy.selection.fields import ABSENT

UNITS = 1 << 20
"""Parts of a similarity of 1: similarities are whole numbers of them."""

_NOTHING = ("nothing",)
"""The key of None and of blank text."""


@runtime_checkable
class Similarity(Protocol):
    """How alike two answers are. It holds settings only: one object serves all calls of a program."""

    def prepare(self, answer: Any) -> Any:
        """What is compared of an answer, made once, where its sample ran.

        Args:
            answer: The answer as the program gave it.

        Returns:
            What :meth:`between` takes; None if the sample casts no vote.
        """
        ...

    def between(self, one: Any, other: Any) -> float:
        """How alike two answers are, of what was made of them: from 0 to 1, the same both ways, 1 for the same."""
        ...


def similarity_of(what: Any) -> Similarity:
    """A similarity as it is, and any function of two answers as one.

    Args:
        what: A similarity, or a function of two answers that returns a number from 0 to 1.

    Raises:
        ValueError: If it is neither.

    Example:
        >>> similarity_of(TokenF1())
        TokenF1()
        >>> alike = similarity_of(lambda one, other: 1 - abs(one - other))
        >>> alike.between(alike.prepare(0.5), alike.prepare(0.75))
        0.75
    """
    if isinstance(what, type):
        raise ValueError(f"similarity must be a similarity such as TokenF1(), got the class {what.__name__}")
    if isinstance(what, Similarity):
        return what
    if callable(what):
        function: Any = what
        return Given(function)
    raise ValueError(
        f"similarity must be a similarity such as TokenF1(), with prepare() and between(), or a function of two "
        f"answers, got {what!r}"
    )


def rounded(similarity: float) -> float:
    """The nearest multiple of 2**-20.

    Example:
        >>> rounded(1 / 3) * 2**20
        349525.0
    """
    return round(similarity * UNITS) / UNITS


def _f1(common: int, one: int, other: int) -> float:
    """F1 of two sets by their sizes; two empty ones are the same."""
    return rounded(2 * common / (one + other)) if one + other else 1.0


@dataclass(frozen=True)
class Equal:
    """1 for answers with equal canonical keys, 0 for all others (:func:`~dynscale_dspy.selection.answers.canonical`).

    Args:
        kind: How values are compared, from the field's type; by default each value's own type says.

    Example:
        >>> equal = Equal()
        >>> equal.between(equal.prepare("**42**"), equal.prepare("42.0"))
        1.0
    """

    kind: Kind = "as it is"

    def prepare(self, answer: Any) -> Hashable:
        """Its key. None and blank text have one too."""
        key = canonical(answer, self.kind)
        return _NOTHING if key is None else key

    def between(self, one: Hashable, other: Hashable) -> float:
        """1 if the keys are equal."""
        return float(one == other)


@dataclass(frozen=True)
class TokenF1:
    """Words in common: the F1 of two texts taken as bags of words (as in SQuAD, Rajpurkar et al., arXiv 1606.05250).

    Words are compared in small letters, without punctuation; in scripts without spaces each character is a word. Two
    blank texts are the same, and no other is like a blank one. Of answers that are no text, all text in them counts. Of
    texts of more than 100,000 characters only so many count.

    Example:
        >>> f1 = TokenF1()
        >>> round(f1.between(f1.prepare("The Eiffel Tower"), f1.prepare("Eiffel tower.")), 2)
        0.8
    """

    def prepare(self, answer: Any) -> frozenset[Hashable]:
        """Its words."""
        return bag(tokens(text_of(answer)))

    def between(self, one: frozenset[Hashable], other: frozenset[Hashable]) -> float:
        """F1 of the words."""
        return _f1(len(one & other), len(one), len(other))


@dataclass(frozen=True)
class Words:
    """Words in common, as :class:`TokenF1` has them, of letters alone: for ``Plurality(ties=Words())``.

    Numbers and signs do not count, since formulas that are about as long have most of them in common, right or wrong.
    An answer without words is like no other.

    Example:
        >>> words = Words()
        >>> round(words.between(words.prepare("the Eiffel Tower, 1889"), words.prepare("Eiffel tower")), 2)
        0.8
        >>> words.prepare("3 + 4") is None
        True
    """

    def prepare(self, answer: Any) -> frozenset[Hashable] | None:
        """Its words; None if it has none."""
        return bag([token for token in tokens(text_of(answer)) if token.isalpha()]) or None

    def between(self, one: frozenset[Hashable], other: frozenset[Hashable]) -> float:
        """F1 of the words."""
        return _f1(len(one & other), len(one), len(other))


@dataclass(frozen=True)
class CharacterF:
    r"""Runs of characters in common: chrF with beta 1 (Popović, WMT 2015), for text, code and inflected words.

    .. math:: \frac{2PR}{P + R}, \qquad P = \frac{1}{N} \sum_{n=1}^{N} \frac{\text{common}_n}{\text{runs}_n}

    R is the same over the other text; N is the longest run that both have, at most ``order``. White space does not
    count, capitals do. Of texts of more than 20,000 characters only so many count.

    Args:
        order: The longest run, in characters: 1 to 7.

    Raises:
        ValueError: If ``order`` is out of bounds.

    Example:
        >>> chrf = CharacterF()
        >>> round(chrf.between(chrf.prepare("return a + b"), chrf.prepare("return b + a")), 2)
        0.56
    """

    order: int = 6

    def __post_init__(self) -> None:
        if isinstance(self.order, bool) or not isinstance(self.order, int) or not 1 <= self.order <= 7:
            raise ValueError(f"order must be a whole number from 1 to 7, got {self.order!r}")

    def prepare(self, answer: Any) -> Any:
        """Its runs of characters."""
        return runs(text_of(answer), self.order)

    def between(self, one: Any, other: Any) -> float:
        """F of the runs."""
        (first, counts), (second, other_counts) = one, other
        lengths = min(len(counts), len(other_counts))
        if not lengths:
            return float(len(counts) == len(other_counts))
        common = common_runs(first, second, self.order)[:lengths]
        precision = math.fsum(c / n for c, n in zip(common, counts, strict=False))
        recall = math.fsum(c / n for c, n in zip(common, other_counts, strict=False))
        if not precision * recall:
            return 0.0
        return rounded(2 * precision * recall / (precision + recall) / lengths)


@dataclass(frozen=True)
class ElementF1:
    """Elements in common: the F1 of two lists taken as sets, in no order. Two empty lists are the same.

    Elements are the same if their canonical keys are; text in them is compared in small letters. The elements of a dict
    are its pairs; a value that is no list is a list of one, and None an empty one.

    Example:
        >>> f1 = ElementF1()
        >>> round(f1.between(f1.prepare(["salt", "Pepper"]), f1.prepare(["pepper", "salt", "oil"])), 2)
        0.8
    """

    def prepare(self, answer: Any) -> frozenset[Hashable]:
        """The keys of its elements."""
        canonical(answer)  # what cannot be read, or has no end, is refused here
        if answer is None:
            return frozenset()
        if isinstance(answer, Mapping):
            items: Any = answer.items()
        else:
            items = answer if isinstance(answer, (list, tuple, set, frozenset)) else [answer]
        return frozenset(map(element_key, items))

    def between(self, one: frozenset[Hashable], other: frozenset[Hashable]) -> float:
        """F1 of the elements."""
        return _f1(len(one & other), len(one), len(other))


def element_key(item: Any) -> Hashable:
    """What an element of a list is compared by; text in it is compared in small letters.

    Args:
        item: The element.

    Example:
        >>> element_key(" Salt ") == element_key("salt"), element_key("2") == element_key(2.0)
        (True, True)
    """
    return canonical(_in_small_letters(item, 0))


def _in_small_letters(item: Any, depth: int) -> Any:
    """An element with its text in small letters, where that is on its surface or in lists of it."""
    if type(item) is str:
        return " ".join(item.casefold().split())
    if isinstance(item, (list, tuple)) and depth < 3:
        return [_in_small_letters(part, depth + 1) for part in item]
    return item


@dataclass(frozen=True)
class MeanOver:
    """The mean over fields of a record, each by a similarity of its own.

    A field that neither record has is the same in both, as one that is None in both; one that only one of them has, or
    that casts no vote, is like no other: 0 for that field. A record casts no vote if none of its fields does. On ten
    recorded abstracts with a fifth of their fields left out that gains 0.9 [0.0, 1.8] points at 4 samples over counting
    what neither has as different, and 0.4 [0.1, 0.8] over leaving it out of the mean.

    Args:
        fields: A similarity for each field, by name. Fields that are not named do not count.

    Raises:
        ValueError: If there are no fields, or one has no similarity.

    Example:
        >>> both = MeanOver({"name": TokenF1(), "year": Equal()})
        >>> both.between(*map(both.prepare, ({"name": "Ada Lovelace", "year": 1815}, {"name": "Ada", "year": 1815})))
        0.83...
    """

    fields: Mapping[str, Similarity]

    def __post_init__(self) -> None:
        if not isinstance(self.fields, Mapping) or not self.fields:
            raise ValueError(f"fields must be a dict of similarities by the names of fields, got {self.fields!r}")
        object.__setattr__(self, "fields", {name: similarity_of(one) for name, one in self.fields.items()})

    def __hash__(self) -> int:
        return hash(frozenset(self.fields.items()))

    def prepare(self, answer: Any) -> tuple[Any, ...] | None:
        """What is compared of each field, in their order; of what is no record, its key."""
        try:
            values = _fields_of(answer)
        except Exception as error:
            # Of the user's classes; their words may hold what does not belong in a log.
            raise UnreadableAnswer(f"an answer cannot be read: {type(error).__name__}") from None
        if values is None:
            return (("no record", Equal().prepare(answer)),)
        parts = tuple(
            similarity.prepare(values[name]) if name in values else ABSENT for name, similarity in self.fields.items()
        )
        return None if all(part is None or part is ABSENT for part in parts) else ("record", *parts)

    def between(self, one: tuple[Any, ...], other: tuple[Any, ...]) -> float:
        """The mean over the fields."""
        if one[0] != "record" or other[0] != "record":
            return float(one[0] == other[0])
        fields = zip(self.fields.values(), one[1:], other[1:], strict=True)
        return rounded(math.fsum(_alike_in(*field) for field in fields) / len(self.fields))


def _alike_in(similarity: Similarity, one: Any, other: Any) -> float:
    """How alike two records are in one field."""
    if one is ABSENT or other is ABSENT:
        return float(one is other)
    return 0.0 if one is None or other is None else similarity.between(one, other)


def _fields_of(answer: Any) -> Mapping[str, Any] | None:
    if isinstance(answer, Mapping):
        return answer
    if isinstance(answer, pydantic.BaseModel):
        return fields_of_model(answer)
    if dataclasses.is_dataclass(answer) and not isinstance(answer, type):
        return {field.name: getattr(answer, field.name) for field in dataclasses.fields(answer)}
    return None


@dataclass(frozen=True)
class EqualOutputs:
    """What programs do: the share of equal outputs of a function that runs them, and how alike they are written.

    A sample casts no vote if running it fails or brings nothing. (In AlphaCode, Li et al., arXiv 2203.07814, programs
    with equal outputs are one group; here they are alike to a degree.)

    Args:
        run: Takes an answer and runs it, on inputs of your choice. It returns a list of outputs, one for each input, or
            a single output. An output that is None, blank, or an error that it caught, equals no other. Errors that it
            raises, and ``exit()`` in what it runs, cost the sample its vote. It is given a copy of the answer. Running
            what a language model wrote is yours to make safe.
        text: How alike answers are as they are written, which counts for half; None to compare outputs alone.

    Example:
        >>> both = EqualOutputs(run=lambda code: [eval(code, {"x": x}) for x in (1, 2, 3)], text=None)
        >>> both.between(both.prepare("x + x"), both.prepare("x ** 2")), both.prepare("x +") is None
        (0.333..., True)
    """

    run: Callable[[Any], Any]
    text: Similarity | None = field(default_factory=CharacterF)

    def __post_init__(self) -> None:
        if not callable(self.run):
            raise ValueError(f"run must be a function of an answer that returns its outputs, got {self.run!r}")
        if self.text is not None:
            object.__setattr__(self, "text", similarity_of(self.text))

    def prepare(self, answer: Any) -> tuple[Any, Any] | None:
        """The keys of its outputs and what is compared of its text; None if it has no outputs."""
        try:
            outputs = self.run(_own(answer))
            listed = outputs if isinstance(outputs, (list, tuple)) else [outputs]
            keys = tuple(_key_of_output(output) for output in listed)
        except (Exception, SystemExit):
            return None
        if all(key is None for key in keys):
            return None
        return keys, None if self.text is None else self.text.prepare(answer)

    def between(self, one: tuple[Any, Any], other: tuple[Any, Any]) -> float:
        """The share of equal outputs, or its mean with how alike the texts are."""
        share = _share(one[0], other[0])
        if self.text is None:
            return rounded(share)
        alike = 0.0 if one[1] is None or other[1] is None else self.text.between(one[1], other[1])
        return rounded((share + alike) / 2)


def _key_of_output(output: Any) -> Hashable | None:
    if output is None or isinstance(output, BaseException) or (isinstance(output, str) and not output.strip()):
        return None
    return canonical([output])  # within a list text is compared exactly


def _share(one: Sequence[Hashable | None], other: Sequence[Hashable | None]) -> float:
    equal = sum(a is not None and a == b for a, b in zip(one, other, strict=False))
    return equal / max(len(one), len(other))


@dataclass(frozen=True)
class Given:
    """How alike a function of yours says two answers are.

    It is asked both ways round and the mean is taken. What is no number from 0 to 1, or an error, counts 0 for that
    pair. It is given copies: what it changes in them is changed in no prediction.

    Args:
        function: Takes two answers as the program gave them and returns a number from 0 to 1.

    Raises:
        ValueError: If it cannot be called.

    Example:
        >>> near = Given(lambda one, other: max(0, 1 - abs(one - other) / 10))
        >>> near.between(near.prepare(40), near.prepare(45))
        0.5
    """

    function: Callable[[Any, Any], float]

    def __post_init__(self) -> None:
        if not callable(self.function):
            raise ValueError(f"function must be a function of two answers, got {self.function!r}")

    def prepare(self, answer: Any) -> tuple[Any]:
        """A copy of the answer; None is one too."""
        return (_own(answer),)

    def between(self, one: tuple[Any], other: tuple[Any]) -> float:
        """The mean of what the function says both ways round."""
        return rounded((self._asked(one[0], other[0]) + self._asked(other[0], one[0])) / 2)

    def _asked(self, one: Any, other: Any) -> float:
        try:
            said = float(self.function(one, other))
        except Exception:
            return 0.0
        return said if 0 <= said <= 1 else 0.0  # NaN is neither


def _own(answer: Any) -> Any:
    """A copy for a function of the user's, which may change what it is given; the answer itself if it has no copies."""
    try:
        return copy.deepcopy(answer)
    except Exception:
        return answer
