"""The language model in DSPy's settings of a sample: the user's own, asked with what makes the sample distinct."""

from __future__ import annotations

import copy
from collections.abc import Callable, Generator
from functools import partial
from typing import TYPE_CHECKING, Any

from dynscale_dspy.execution.exchange import Exchange
from dynscale_dspy.execution.shared_request import calling

if TYPE_CHECKING:
    from dynscale_dspy.budget.throttle import Throttle


class SampleLM:
    """Stands where a program finds its language model, and asks that one. Everything else, state included, is its.

    A program may call its language model itself, or set an adapter of its own, which then is around this one's: what
    such requests lack of the sample's rollout, temperature and seed is added here, and they pass the pool's throttle.
    The sample's own adapter asks the language model itself.

    Args:
        lm: The language model.
        requests: The settings to make a request with, as the sample wants them, given those that it was asked with; and
            others, if it fails for one of them. What came of each is sent back.
        throttle: What requests pass on their way out; None for nothing.
    """

    def __init__(
        self,
        lm: Any,
        requests: Callable[[Any, dict[str, Any]], Generator[dict[str, Any], Any, Any]],
        throttle: Throttle | None,
    ) -> None:
        vars(self).update(_lm=lm, _requests=requests, _throttle=throttle)

    @property
    def __class__(self) -> type:  # type: ignore[override]  # DSPy takes instances of its own class only
        return vars(self)["_lm"].__class__

    def __getattr__(self, name: str) -> Any:
        return getattr(vars(self)["_lm"], name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(vars(self)["_lm"], name, value)

    def __delattr__(self, name: str) -> None:
        delattr(vars(self)["_lm"], name)

    def __eq__(self, other: object) -> bool:
        return vars(self)["_lm"] == original(other)

    def __hash__(self) -> int:
        return hash(vars(self)["_lm"])

    def __repr__(self) -> str:
        return repr(vars(self)["_lm"])

    def __copy__(self) -> Any:
        return copy.copy(vars(self)["_lm"])

    def __deepcopy__(self, memo: dict) -> Any:
        return copy.deepcopy(vars(self)["_lm"], memo)

    def __reduce_ex__(self, protocol: Any) -> Any:
        return original, (vars(self)["_lm"],)

    def __call__(self, prompt: Any = None, *, messages: Any = None, **kwargs: Any) -> Any:
        """Ask from a thread."""
        lm, throttle = vars(self)["_lm"], vars(self)["_throttle"]
        exchange = Exchange(self._asking(prompt, kwargs))
        while (asked := exchange.asked) is not None:
            with exchange, calling(lm, messages):
                if throttle is None:
                    exchange.outputs = lm(prompt, messages=messages, **asked)
                else:
                    exchange.outputs = throttle.run(partial(lm, prompt, messages=messages, **asked))
        return exchange.result

    async def acall(self, prompt: Any = None, *, messages: Any = None, **kwargs: Any) -> Any:
        """Ask from a task."""
        lm, throttle = vars(self)["_lm"], vars(self)["_throttle"]
        exchange = Exchange(self._asking(prompt, kwargs))
        while (asked := exchange.asked) is not None:
            with exchange, calling(lm, messages):
                if throttle is None:
                    exchange.outputs = await lm.acall(prompt, messages=messages, **asked)
                else:
                    exchange.outputs = await throttle.arun(partial(lm.acall, prompt, messages=messages, **asked))
        return exchange.result

    def _asking(self, prompt: Any, kwargs: dict[str, Any]) -> Generator[dict[str, Any], Any, Any]:
        own = vars(self)
        return own["_requests"](own["_lm"], kwargs) if prompt_only(prompt, kwargs) else _once(kwargs)


def _once(kwargs: dict[str, Any]) -> Generator[dict[str, Any], Any, Any]:
    return (yield kwargs)


def original(lm: Any) -> Any:
    """The language model that is asked: what is behind a :class:`SampleLM`, anything else itself."""
    while type(lm) is SampleLM:
        lm = vars(lm)["_lm"]
    return lm


def prompt_only(prompt: Any, kwargs: dict[str, Any]) -> bool:
    """Return True unless DSPy's explicit request is asked, which carries its settings itself."""
    return "request" not in kwargs and (prompt is None or isinstance(prompt, (str, list)))
