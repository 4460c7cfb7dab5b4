"""What a request gives up because the server does not take it: a temperature, a seed, log probabilities.

The plain program sends what its user has set. Samples send more, so a server may turn a sample away that answers the
plain program. It is asked again without the setting, and if that helps the refusal is kept for the language model, so
that no further request tries. A request that was turned away counts as a request, never as a sample.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Collection, Mapping
from typing import Any

from dynscale_dspy.execution.capabilities import REFUSALS
from dynscale_dspy.execution.lm_errors import Complaint, complaint_of

logger = logging.getLogger(__name__)

NEGOTIABLE = ("temperature", "seed", "logprobs", "top_logprobs", "rollout_id")
"""Settings without which a sample is still one of the program. All others are the program's own business."""
AT_ZERO = "temperature 0"
"""Stands for the temperature 0 of greedy samples, which some servers refuse that take others."""
_WITH = {"logprobs": ("top_logprobs",)}
"""Settings that mean nothing without another one."""


def is_unproven(lm: Any, settings: Mapping[str, Any]) -> bool:
    """Return True if nobody knows whether a language model takes the temperature that samples will add.

    Args:
        lm: The language model; None where it is not known.
        settings: What the program asks it with.
    """
    merged = {**(getattr(lm, "kwargs", None) or {}), **settings}
    if lm is None or merged.get("temperature"):
        return False
    return not REFUSALS.takes(lm, "temperature") and not REFUSALS.of(lm, {**merged, "temperature": 1.0})


class Concessions:
    """What the requests of one predictor call give up.

    Args:
        lm: The language model that is asked.
    """

    def __init__(self, lm: Any) -> None:
        self._lm = lm
        self._given_up: dict[str, frozenset[str]] = {}
        self._named = True
        self.sent: dict[str, Any] = {}
        """The settings of the latest request, the language model's own among them."""
        self._ours: frozenset[str] = frozenset()

    @property
    def may_be_greedy(self) -> bool:
        """Whether a temperature of 0 may be asked for: it has not been refused."""
        return AT_ZERO not in self._given_up and not REFUSALS.of(self._lm, {AT_ZERO: 0})

    def applied(self, kwargs: Mapping[str, Any], ours: Collection[str] = ()) -> dict[str, Any]:
        """The settings to send.

        Args:
            kwargs: The settings to ask with, beside the language model's own.
            ours: Those of them that the user has not asked for.
        """
        own = getattr(self._lm, "kwargs", None) or {}
        wanted = {**own, **kwargs}
        left_out = {name for name in REFUSALS.of(self._lm, wanted) | self._given_up.keys() if name in wanted}
        left_out |= {name for other in left_out for name in _WITH.get(other, ()) if name in wanted}
        asked = {name: value for name, value in kwargs.items() if name not in left_out}
        # The language model's own are overridden, unless it has no such argument and does not hand them on.
        asked |= {name: None for name in left_out if own.get(name) is not None and _has_argument(self._lm, name)}
        self.sent = {name: value for name, value in {**own, **asked}.items() if value is not None}
        self._ours = frozenset(ours)
        return asked

    def after(self, error: BaseException) -> bool:
        """Give up what a failed request was turned away for.

        Returns:
            Whether anything was given up, so that the request may be made again.
        """
        names = [name for name in NEGOTIABLE if name in self.sent]
        complaint = complaint_of(error, names, self.sent)
        refused = dict(complaint.refused)
        if complaint.of_value:  # the user's own mistake is theirs to mend
            refused = {name: others for name, others in refused.items() if name in self._ours}
        if complaint.unexplained:
            # As the plain program would ask, first.
            untried = {name for name in names if name != "rollout_id" and not REFUSALS.takes(self._lm, name)}
            suspects = untried & self._ours or (untried if complaint.says_nothing else ())
            refused = dict.fromkeys(suspects, frozenset())
            self._named = False
        if self._is_of_zero(complaint, refused):
            # The language model's own temperature may do: to send none might make all samples the same.
            refused.pop("temperature", None)
            refused[AT_ZERO] = frozenset()
        self._given_up |= refused
        return bool(refused)

    def _is_of_zero(self, complaint: Complaint, refused: Mapping[str, frozenset[str]]) -> bool:
        """Whether what the server does not take may be the temperature 0 of a greedy sample alone."""
        if self.sent.get("temperature") != 0 or "temperature" not in self._ours or not self.may_be_greedy:
            return False
        if complaint.unexplained:
            return not REFUSALS.takes(self._lm, AT_ZERO)
        return refused.get("temperature") == frozenset() and not complaint.of_any_value

    def cut_off(self) -> None:
        """The budget did not last for another try: where the server has named what it refuses, its word is taken."""
        if self._given_up and self._named:
            REFUSALS.found(self._lm, self._given_up)

    def confirmed(self) -> None:
        """The request was answered: keep that the language model takes what was sent, and not what was given up."""
        taken = [name for name in NEGOTIABLE if name in self.sent]
        REFUSALS.took(self._lm, [*taken, AT_ZERO] if self.sent.get("temperature") == 0 else taken)
        if not self._given_up:
            return
        news = REFUSALS.found(self._lm, self._given_up)
        model = getattr(self._lm, "model", self._lm)
        for name in news:
            # Who has asked for a setting should know that it has no effect.
            level = logging.DEBUG if name in self._ours or name == AT_ZERO else logging.WARNING
            logger.log(level, "%s does not take %s: it is asked without from now on", model, name)


def _has_argument(lm: Any, name: str) -> bool:
    """Whether a setting can be handed to a language model; one of the user's own class need not know of all."""
    try:
        arguments = [inspect.signature(ask).parameters.values() for ask in (lm.forward, lm.aforward)]
    except (AttributeError, TypeError, ValueError):  # it cannot be told
        return True
    return all(any(each.name == name or each.kind is each.VAR_KEYWORD for each in taken) for taken in arguments)
