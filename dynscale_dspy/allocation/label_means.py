r"""How probable each label is on average over a program's own calls, so that a preference for one can be divided out.

A small model may prefer a label to others whatever it is asked. The mean of what it thinks over many calls shows that
preference, if labels are about as frequent there. A label's probability over its mean is then what the call says for
it (batch calibration, Zhou et al., arXiv 2309.17249):

.. math:: w_k = \frac{1 / \max(m_k, \mathrm{FLOOR} / K)}{K}

Where labels are *not* about as frequent, the mean is the frequency as well as the preference, and nothing in the
distributions tells one from the other: docs/probabilities-measured.md has what that costs, and what was tried.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

LEAST, EACH = 16, 4
"""Calls, and calls for each label, before a mean is used. From 16 on it gave all that it gave with hundreds."""
FLOOR = 0.05
"""The least that a mean is taken to be, over that of equally probable labels: no share grows more than 20 fold."""
MEMORY = 1000
"""Calls after which what is known counts half, so that a program that changes is noticed."""
MOST_MODELS = 16
"""Language models of one program that are remembered; of more, those longest unheard of are forgotten."""


@dataclass(frozen=True)
class LabelMean:
    """What a language model thinks of each label, summed over calls.

    Args:
        labels: The labels' names, in the program's order.
        calls: How many calls it is the sum of.
        sums: The sum of the shares of each label. Shares are multiples of 2**-20, so that sums do not depend on their
            order.

    Example:
        >>> known = LabelMean(("yes", "no"))
        >>> for _ in range(16):
        ...     known = known.with_call([0.75, 0.25])
        >>> [round(weight, 2) for weight in known.weights]
        [0.67, 2.0]
    """

    labels: tuple[str, ...]
    calls: float = 0
    sums: tuple[float, ...] = ()

    def with_call(self, shares: Sequence[float]) -> LabelMean:
        """This and one more call.

        Args:
            shares: What the language model thinks of each label.
        """
        sums = tuple(a + b for a, b in zip(self.sums or (0.0,) * len(self.labels), shares, strict=True))
        calls = self.calls + 1
        if calls > MEMORY:
            calls, sums = calls / 2, tuple(part / 2 for part in sums)
        return LabelMean(self.labels, calls, sums)

    @property
    def weights(self) -> tuple[float, ...] | None:
        """What the share of each label is to be multiplied with; None while too few calls are known.

        They are 1 where labels are equally probable on average.
        """
        number = len(self.labels)
        if self.calls < max(LEAST, EACH * number):
            return None
        return tuple(1 / max(part / self.calls * number, FLOOR) for part in self.sums)


class LabelMeans:
    """The means of one program, by language model.

    Each is replaced as a whole, so that threads may tell and read without a lock: of two calls that end at the same
    instant one may not count.

    Example:
        >>> means = LabelMeans()
        >>> means.tell("small", ("yes", "no"), [0.75, 0.25])
        >>> means.of("small", ("yes", "no")).calls, means.of("large", ("yes", "no")).calls
        (1, 0)
    """

    __slots__ = ("_by_model",)

    def __init__(self) -> None:
        self._by_model: dict[str, LabelMean] = {}

    def of(self, model: str, labels: tuple[str, ...]) -> LabelMean:
        """What is known of a language model; of labels that the program has had before, nothing.

        Args:
            model: Its name.
            labels: The program's labels.
        """
        known = self._by_model.get(model)
        return known if known is not None and known.labels == labels else LabelMean(labels)

    def tell(self, model: str, labels: tuple[str, ...], shares: Sequence[float]) -> None:
        """A call has ended; see :meth:`of`. Shares that are no distribution over the labels are left out.

        Args:
            model: The language model's name.
            labels: The program's labels.
            shares: What it thinks of each.
        """
        if len(shares) == len(labels) and _is_distribution(shares, 1):
            self._keep(model, self.of(model, labels).with_call(shares))

    def told(self) -> dict[str, Any]:
        """All means, as JSON values."""
        return {
            model: {"labels": list(mean.labels), "calls": mean.calls, "sums": list(mean.sums)}
            for model, mean in list(self._by_model.items())
        }

    def recall(self, told: Any) -> None:
        """Begin with what was saved elsewhere. What is no mean is left out.

        Args:
            told: What :meth:`told` gave.
        """
        for model, saved in list(told.items())[-MOST_MODELS:] if isinstance(told, Mapping) else ():
            mean = _read(saved)
            if isinstance(model, str) and mean is not None:
                self._keep(model, mean)

    def _keep(self, model: str, mean: LabelMean) -> None:
        others = {name: kept for name, kept in list(self._by_model.items()) if name != model}
        latest = list(others.items())[1 - MOST_MODELS :]
        self._by_model = {**dict(latest), model: mean}


def _read(saved: Any) -> LabelMean | None:
    """A mean from JSON values; None if they are none of it."""
    if not isinstance(saved, Mapping):
        return None
    labels, calls, sums = (saved.get(name) for name in ("labels", "calls", "sums"))
    if not (isinstance(labels, (list, tuple)) and isinstance(sums, (list, tuple)) and len(labels) == len(sums) > 1):
        return None
    if not all(isinstance(label, str) for label in labels):
        return None
    if not isinstance(calls, (int, float)) or isinstance(calls, bool) or not 0 < calls <= MEMORY:
        return None
    return LabelMean(tuple(labels), calls, tuple(map(float, sums))) if _is_distribution(sums, calls) else None


def _is_distribution(parts: Sequence[Any], total: float) -> bool:
    numbers = all(isinstance(part, (int, float)) and 0 <= part <= 2 * total for part in parts)
    return numbers and abs(sum(parts) - total) <= 1e-3 * total
