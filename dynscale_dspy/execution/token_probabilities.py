"""Probabilities of labels from one reply: what a request asks for them, and how a sample's vote gets them.

Where a program answers with one of a few labels, its samples ask their language model for the probabilities of the
tokens it writes (``logprobs``, ``top_logprobs``). What comes back is read into the sample's vote and taken off the
reply again, so that predictions, demos, traces and DSPy's histories are as without. A route that refuses the request is
asked as before from then on (:mod:`~dynscale_dspy.execution.concessions`), and so is one that answers without
probabilities, or with some that nothing can be made of.
"""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import dspy

from dynscale_dspy.execution.capabilities import (
    FAILING,
    MANY_ALTERNATIVES,
    PROBING,
    REFUSALS,
    TOKEN_PROBABILITIES,
)
from dynscale_dspy.execution.choices_route import alike
from dynscale_dspy.execution.concessions import NEGOTIABLE
from dynscale_dspy.execution.introspection import is_predictor
from dynscale_dspy.execution.lm_errors import (
    complaint_of,
    is_context_overflow,
    is_permanent,
    is_unexpected,
    speaks_of,
    status_of,
)
from dynscale_dspy.execution.shared_request import calling
from dynscale_dspy.selection import distribution
from dynscale_dspy.selection.base import Selector, Vote
from dynscale_dspy.selection.labels import Labels, labels_of

if TYPE_CHECKING:
    from dynscale_dspy.budget.admission import Admission
    from dynscale_dspy.execution.meter import Meter

logger = logging.getLogger(__name__)

MOST, FEW = 20, 5
"""Alternatives to ask for at each token: as many as any server gives, and as many as nearly all give."""
LONGEST_REPLY = 500
"""Tokens of a reply, on average, above which nothing is asked: what is told of each would outgrow the reply by far."""
SPARE_REQUESTS = 20
"""Requests that must be left, where they are capped, for one that may be refused."""


class LabelReader:
    """How the votes of a program get the probabilities of its labels.

    Args:
        field: The output field that holds the label.
        labels: The labels.
        keys: The key under which each votes.
        at_once: Whether the program writes nothing before the label that could lead to it.
    """

    def __init__(self, field: str, labels: Labels, keys: Sequence[Any], *, at_once: bool) -> None:
        self.field = field
        self.labels = labels
        self.keys = tuple(keys)
        self.at_once = at_once

    @property
    def alternatives(self) -> int:
        """How many to ask for at each token: a few for each label. Where a whole text comes first, few."""
        return max(FEW, min(MOST, 4 * len(self.keys))) if self.at_once else FEW

    def weighed(self, vote: Vote, output: Any) -> Vote:
        """A vote with the shares that the language model gave each label.

        Args:
            vote: The sample's vote.
            output: The reply that it was read from, as DSPy hands it out: a dict of its text and probabilities.

        Returns:
            The vote as it was, if nothing can be made of the probabilities.
        """
        try:
            said = self.keys.index(vote.key)
            reply = output["text"]
            shares = distribution.probabilities(self.labels, tokens_of(output["logprobs"]), reply, self.field, said)
            if shares is None:
                return vote
            return distribution.spread(vote, self.keys, self.labels, shares, is_whole=self.at_once)
        except Exception as error:  # whatever a server sends there costs no vote
            logger.debug("probabilities of tokens cannot be read: %s", type(error).__name__)
            return vote


def label_reader(program: Any, answers: Mapping[str, Any], selector: Selector, *, at_once: bool) -> LabelReader | None:
    """How the votes of a program get probabilities; None where they cannot.

    Args:
        program: The predictor that a program consists of.
        answers: The type of each output field that is part of the answer; empty if that is not known.
        selector: Reads votes.
        at_once: Whether the program writes nothing before the label that could lead to it.
    """
    if not is_predictor(program) or len(answers) != 1 or not getattr(selector, "takes_shares", False):
        return None
    if not isinstance(dspy.settings.adapter or dspy.ChatAdapter(), (dspy.ChatAdapter, dspy.JSONAdapter)):
        return None  # it may ask several times, or another language model
    ((field, annotation),) = answers.items()
    try:
        return _reader(field, annotation, selector, at_once)
    except TypeError:  # one of them cannot be hashed
        return _reader.__wrapped__(field, annotation, selector, at_once)


@lru_cache(maxsize=256)
def _reader(field: str, annotation: Any, selector: Selector, at_once: bool) -> LabelReader | None:
    values = labels_of(annotation)
    if values is None or len(values) < 2:
        return None
    try:
        votes = [selector.read(value) for value in values]
        keys = [vote.key for vote in votes if vote is not None]
        if len(keys) < len(values):
            return None  # a label that the selector takes for no answer: what is told of it is for nobody
        return LabelReader(field, Labels(values), keys, at_once=at_once)
    except Exception as error:
        logger.debug("labels cannot be told apart: %s", type(error).__name__)
        return None


def may_tell(lm: Any) -> bool:
    """Whether a language model may tell the probabilities of the tokens it writes: it has not been found unable."""
    return type(lm) is dspy.LM and lm.model_type == "chat" and TOKEN_PROBABILITIES.is_expected(lm)


def lenient(lm: Any) -> Any:
    """The same language model, for which a reply without the probabilities that were asked for is no error.

    LiteLLM leaves out what a server did not send, and DSPy before 3.4 fails on that though the reply is paid for.
    """
    if type(lm) is not dspy.LM or hasattr(lm, "_engine_spec"):
        return lm

    def forward(*args: Any, **kwargs: Any) -> Any:
        return _completed(lm.forward(*args, **kwargs))

    async def aforward(*args: Any, **kwargs: Any) -> Any:
        return _completed(await lm.aforward(*args, **kwargs))

    return alike(lm, forward=forward, aforward=aforward)


def _completed(response: Any) -> Any:
    for choice in getattr(response, "choices", ()):
        if not hasattr(choice, "logprobs"):
            choice.logprobs = None
    return response


class Probing:
    """What one predictor call of a sample asks about tokens, and what came of it.

    Args:
        reader: What reads it.
        lm: The language model.
        settings: What the user asks it with.
        payer: Who pays; None for nobody.
    """

    def __init__(
        self, reader: LabelReader | None, lm: Any, settings: Mapping[str, Any], payer: Admission | None
    ) -> None:
        self.is_users = bool(settings.get("logprobs"))
        self.output: Any = None
        """The latest reply, with its probabilities."""
        self._lm = lm
        self._reader = reader
        self._asks = False
        self._gave_up = ""
        if reader is not None and not self.is_users and settings.get("n") in (None, 1) and may_tell(lm):
            self._asks = REFUSALS.takes(lm, "logprobs") or _may_be_refused(lm, payer)

    @property
    def listens(self) -> bool:
        """Whether replies are to be looked at."""
        return self._reader is not None and (self._asks or self.is_users)

    @property
    def settings(self) -> dict[str, Any]:
        """What to add to the settings of the request."""
        if not self._asks or self._reader is None:
            return {}
        many = self._reader.alternatives
        return {"logprobs": True, "top_logprobs": many if MANY_ALTERNATIVES.is_expected(self._lm) else FEW}

    def failed(self, error: Exception, sent: Mapping[str, Any]) -> bool:
        """Ask for less after a failure.

        While it is not known that the server takes such requests, any of its errors may be for what was asked. It is
        given up before anything that makes samples differ.

        Args:
            error: What the request failed with.
            sent: Its settings.

        Returns:
            Whether the request is worth making again, asking for less.
        """
        if not self._asks or is_context_overflow(error):
            return False
        named = complaint_of(error, [name for name in NEGOTIABLE if name in sent], sent).refused
        refused = named.keys() & self.settings
        if is_permanent(error) and speaks_of(error, "logprobs"):
            refused = {"logprobs"}  # as OpenAI does not allow them of some models
        elif is_permanent(error) or (named and not refused):
            return False  # it is for something else
        if refused == {"top_logprobs"} and self.settings["top_logprobs"] > FEW:
            MANY_ALTERNATIVES.found(self._lm, False)
            return True
        status = status_of(error)
        unproven = not REFUSALS.takes(self._lm, "logprobs") and status not in (None, 429)
        if not (refused or unproven or is_unexpected(error)):
            return False
        self._asks = False
        if refused:
            self._gave_up = _UNABLE
        elif status is not None and status >= 500:
            self._gave_up = _PERHAPS
        else:
            self._gave_up = _DOUBTED
        return True

    def heard(self, outputs: Sequence[Any], meter: Meter) -> list[Any]:
        """Keep what a reply tells of its tokens.

        Args:
            outputs: The reply's choices, as DSPy hands them out.
            meter: The sample's meter; the entry in DSPy's history is made as it would be without.

        Returns:
            The choices as they would be without.
        """
        self.output = outputs[0] if outputs else None
        if self._gave_up:  # and that has helped
            self._found(self._gave_up)
        if not self._asks:
            return list(outputs)
        told = [tokens for output in outputs if (tokens := _tokens_in(output))]
        texts = [_get(output, "text") or "" for output in outputs if isinstance(output, dict)]
        if outputs:
            joins = any(distribution.begins_at(tokens, text) is not None for tokens in told for text in texts)
            self._found(_ABLE if joins else _DOUBTED if told else _UNABLE)
        if meter.history:
            _tidy(meter.history[-1])
        return [_without(output) for output in outputs]

    def _found(self, finding: str) -> None:
        """Keep what was found of the route."""
        if finding == _PERHAPS and FAILING.doubted(self._lm):
            return  # it may have been chance: the next one finds out
        if finding in (_PERHAPS, _DOUBTED):
            TOKEN_PROBABILITIES.doubted(self._lm)
        elif TOKEN_PROBABILITIES.found(self._lm, finding == _ABLE):
            logger.debug("%s does not tell probabilities of tokens", getattr(self._lm, "model", self._lm))


_ABLE, _UNABLE, _DOUBTED, _PERHAPS = "able", "unable", "not for a while", "if it fails once more"
"""What may be found of a route."""


class ProbingLM:
    """Stands where a language model is expected; probabilities of tokens do not pass. All else is the model's.

    Args:
        lm: The language model.
        probing: Keeps what it tells.
        meter: The sample's meter.
    """

    def __init__(self, lm: Any, probing: Probing, meter: Meter) -> None:
        self._lm = lm
        self._probing = probing
        self._meter = meter

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_lm"], name)

    def __call__(self, prompt: Any = None, *, messages: Any = None, **kwargs: Any) -> Any:
        """Ask from a thread."""
        with calling(self._lm, messages):
            return self._probing.heard(self._lm(prompt, messages=messages, **kwargs), self._meter)

    async def acall(self, prompt: Any = None, *, messages: Any = None, **kwargs: Any) -> Any:
        """Ask from a task."""
        with calling(self._lm, messages):
            return self._probing.heard(await self._lm.acall(prompt, messages=messages, **kwargs), self._meter)


def tokens_of(logprobs: Any) -> list[distribution.Token]:
    """The tokens of a reply and their probabilities.

    Args:
        logprobs: What DSPy hands out of them: OpenAI's shape, as a dict or an object. Entries without a token or a
            number tell nothing of probabilities; what they say is kept.
    """
    tokens = []
    for entry in _content(logprobs):
        others: dict[bytes, float] = {}
        for other in _get(entry, "top_logprobs") or ():
            text, probability = _text(other), _probability(other)
            others[text] = others.get(text, 0.0) + probability
        tokens.append(distribution.Token(_text(entry), _probability(entry), others))
    return tokens


def _tokens_in(output: Any) -> list[distribution.Token]:
    return tokens_of(output.get("logprobs")) if isinstance(output, dict) else []


def _content(logprobs: Any) -> Sequence[Any]:
    content = _get(logprobs, "content")
    return content if isinstance(content, (list, tuple)) else ()


def _get(thing: Any, name: str) -> Any:
    return thing.get(name) if isinstance(thing, Mapping) else getattr(thing, name, None)


def _text(entry: Any) -> bytes:
    raw, token = _get(entry, "bytes"), _get(entry, "token")
    if isinstance(raw, (list, tuple)) and all(isinstance(byte, int) and 0 <= byte < 256 for byte in raw) and raw:
        return bytes(raw)
    return token.encode("utf-8", "replace") if isinstance(token, str) else b""


def _probability(entry: Any) -> float:
    value = _get(entry, "logprob")
    if isinstance(value, bool) or not isinstance(value, (int, float)) or math.isnan(value):
        return 0.0
    return math.exp(min(float(value), 0.0))


def _without(output: Any) -> Any:
    """One choice as DSPy would have handed it out if no probabilities had been asked for."""
    if not isinstance(output, dict) or "logprobs" not in output:
        return output
    rest = {name: value for name, value in output.items() if name != "logprobs"}
    return rest["text"] if rest.keys() == {"text"} else rest


def _tidy(entry: dict[str, Any]) -> None:
    """Make an entry of DSPy's histories as it would be without; thousands of them are kept."""
    entry["outputs"] = [_without(output) for output in entry.get("outputs") or ()]
    entry["response"] = _lighter(entry.get("response"))


def _lighter(response: Any) -> Any:
    """A response without the probabilities of its tokens; the same if its shape is not known. DSPy caches the other."""
    try:
        if isinstance(response, (list, tuple)):
            return type(response)(map(_lighter, response))
        if dataclasses.is_dataclass(response) and not isinstance(response, type):
            data = getattr(response, "provider_data", None)
            changes: dict[str, Any] = {"logprobs": None}
            if isinstance(data, Mapping) and "choices" in data:
                changes["provider_data"] = {**data, "choices": [{**each, "logprobs": None} for each in data["choices"]]}
            return dataclasses.replace(response, **changes)
        completion: Any = response
        choices = [choice.model_copy(update={"logprobs": None}) for choice in completion.choices]
        return completion.model_copy(update={"choices": choices})
    except Exception:
        return response


def _may_be_refused(lm: Any, payer: Admission | None) -> bool:
    """Whether a request may be made that the server may refuse; where requests are capped, one at a time may."""
    if payer is None or not payer.caps("requests"):
        return True
    return payer.remaining("requests") >= SPARE_REQUESTS and PROBING.doubted(lm)
