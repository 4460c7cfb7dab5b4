"""What a route to a language model takes: tried with a few small requests, and told.

A route is a model at an address, by the engine of DSPy's that goes there. Nothing is paid from a pool, and nothing is
kept for later calls but what the library would have found itself.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import dspy

from dynscale_dspy.execution.capabilities import CONTINUED_MESSAGE
from dynscale_dspy.execution.choices_route import can_borrow, is_borrowed, makes_one_request, through_litellm
from dynscale_dspy.execution.lm_errors import is_unreadable, status_of
from dynscale_dspy.execution.prefill import StartedMessage
from dynscale_dspy.execution.shared_request import calling
from dynscale_dspy.execution.token_probabilities import lenient, tokens_of

NATIVE, LITELLM, OWN = "DSPy's own engine", "LiteLLM", "the user's engine"
"""Who makes the requests."""
QUESTION = "State the final answer to the following arithmetic problem: 4 + 3 ="
LONGEST = 200
"""Characters of an error that are told."""


@dataclass(frozen=True)
class Finding:
    """What came of trying one thing.

    Args:
        able: Whether it can be done; None if that cannot be told.
        note: What was seen.
    """

    able: bool | None
    note: str = ""


@dataclass(frozen=True)
class Route:
    """What a route takes.

    Args:
        model: The language model's name.
        engine: Who makes its requests.
        shared: Who makes those for several choices; empty if nobody can.
        findings: By what was tried: ``answers``, ``usage``, ``n``, ``seed``, ``logprobs``, ``prefill``. The others are
            missing where it does not answer.
        requests: Requests that were tried; an engine may refuse some itself.
        seconds: What they took.
    """

    model: str
    engine: str
    shared: str
    findings: Mapping[str, Finding]
    requests: int
    seconds: float

    @property
    def answers(self) -> bool:
        """Whether it answered at all."""
        return bool(self.findings["answers"].able)

    def as_dict(self) -> dict[str, Any]:
        """The same as values of JSON."""
        return asdict(self)


def probe(lm: dspy.LM) -> Route:
    """Try what a language model takes, with at most seven small requests.

    Args:
        lm: The language model, without a cache and without retries.
    """
    return _Probing(lm).route()


class _Probing:
    """One route being tried."""

    def __init__(self, lm: dspy.LM) -> None:
        self._lm = lm
        self._requests = 0
        self._messages = [{"role": "user", "content": QUESTION}]

    def route(self) -> Route:
        began = time.perf_counter()
        sharing = self._sharing()
        first = self._ask()
        findings = {"answers": self._answered(first)}
        if findings["answers"].able:
            findings |= {
                "usage": _usage(first),
                "n": self._several(sharing),
                "seed": self._seed(),
                "logprobs": self._logprobs(),
                "prefill": self._prefill(),
            }
        return Route(
            model=str(self._lm.model),
            engine=_engine(self._lm),
            shared="" if sharing is None else _engine(sharing),
            findings=findings,
            requests=self._requests,
            seconds=round(time.perf_counter() - began, 3),
        )

    def _ask(self, lm: Any = None, **settings: Any) -> _Asked:
        self._requests += 1
        asking = lm or self._lm
        try:
            with calling(asking, self._messages):
                outputs = asking(messages=self._messages, **settings)
        except Exception as error:  # of whatever kind: it is told
            return _Asked((), {}, error)
        entry = asking.history[-1] if asking.history else {}
        return _Asked(tuple(outputs), entry.get("usage") or {}, None)

    def _answered(self, asked: _Asked) -> Finding:
        if asked.error is not None:
            return Finding(False, told(asked.error))
        texts = [text for text in map(_text, asked.outputs) if text.strip()]
        return Finding(True) if texts else Finding(False, "an empty reply")

    def _sharing(self) -> Any:
        """What requests for several choices go through; None for nothing."""
        if makes_one_request(self._lm, {"n": 2}):
            return self._lm
        return through_litellm(self._lm) if can_borrow(self._lm, {"n": 2}, wait=True) else None

    def _several(self, sharing: Any) -> Finding:
        if sharing is None:
            return Finding(False, "no engine asks this provider for several choices at once")
        asked = self._ask(sharing, n=2)
        if asked.error is not None:
            return Finding(False, told(asked.error))
        if len(asked.outputs) != 2:
            return Finding(False, f"{len(asked.outputs)} came back where 2 were asked for")
        return Finding(True)

    def _seed(self) -> Finding:
        first = self._ask(seed=7)
        if first.error is not None:
            return Finding(False, told(first.error))
        again = self._ask(seed=7)
        alike = [_text(output) for output in first.outputs] == [_text(output) for output in again.outputs]
        return Finding(True, "" if alike else "but the same seed gave another reply")

    def _logprobs(self) -> Finding:
        asked = self._ask(lenient(self._lm), logprobs=True, top_logprobs=5)
        if asked.error is not None:
            return Finding(False, told(asked.error))
        found = [tokens_of(output.get("logprobs")) for output in asked.outputs if isinstance(output, dict)]
        tokens = found[0] if found else []
        if not tokens:
            return Finding(False, "taken, and none come back")
        most = max(len(token.others) for token in tokens)
        return Finding(True, f"with {most} alternatives a token" if most else "without alternatives")

    def _prefill(self) -> Finding:
        """Whether a message that is begun is gone on with, as :mod:`~dynscale_dspy.execution.prefill` finds out."""
        started = StartedMessage(dspy.ChatAdapter(), self._lm, "4 and 3 are added. ")
        self._requests += 1
        signature = dspy.ensure_signature("question -> reasoning, answer")
        try:
            started.adapter(self._lm, started.kwargs({}), signature, [], {"question": QUESTION})
        except Exception as error:
            if is_unreadable(error):
                return Finding(None, "taken, and the reply cannot be read")
            return Finding(False, told(error))
        if CONTINUED_MESSAGE.is_expected(self._lm):
            return Finding(True)
        return Finding(False, "taken, and a new message begun")


@dataclass(frozen=True)
class _Asked:
    """What came of a request."""

    outputs: Sequence[Any]
    usage: Mapping[str, Any]
    error: Exception | None


def _engine(lm: Any) -> str:
    if makes_one_request(lm, {}):
        return LITELLM
    return NATIVE if is_borrowed(lm, {}) or getattr(lm, "_engine_spec", None) in ("auto", "lm15") else OWN


def _usage(asked: _Asked) -> Finding:
    read, written = (asked.usage.get(name) for name in ("prompt_tokens", "completion_tokens"))
    if not isinstance(read, int) or not isinstance(written, int) or read + written <= 0:
        return Finding(False, "tokens are guessed, at the most that they can be")
    if not (read and written):
        return Finding(False, f"{read} tokens of the prompt and {written} of the reply cannot be true")
    return Finding(True, f"{read} tokens read, {written} written")


def _text(output: Any) -> str:
    return str(output.get("text") or "") if isinstance(output, dict) else str(output or "")


def told(error: BaseException) -> str:
    """An error in one line: its status if it has one, and what it says."""
    words = " ".join(str(error).split()) or type(error).__name__
    words = words if len(words) <= LONGEST else f"{words[: LONGEST - 1]}…"
    status = status_of(error)
    return words if status is None or str(status) in words else f"{status}: {words}"
