"""What a request costs: the most it can come to before it is made, and what it came to when it is over."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from dynscale_dspy.allocation.costs import NANO, Cost
from dynscale_dspy.budget.prices import Price, listed, worst_price
from dynscale_dspy.execution.lm_errors import was_never_sent, was_refused

PER_MESSAGE = 16
"""Tokens that a chat template adds to a message, at most."""
PER_REQUEST = 128
"""Tokens that a chat template adds to a request: a date, a default system prompt."""
BYTES_PER_TOKEN = 7
"""Several choices together are longer than their reported tokens only if a token is longer than this on average."""

MISCOUNTED = "the usage of one choice for several"
"""Why a report was not believed: llama.cpp's server, among others, reports what one of the choices used."""
LARGEST = 10_000_000
"""Tokens that no request can have: no context window is as large."""

_OPENAI = ("gpt-", "chatgpt-", "o1", "o3", "o4")


@dataclass(frozen=True)
class Bound:
    """The most a request can cost.

    Args:
        cost: That, as far as it is known.
        lacking: What is missing for it to be an upper bound; empty if it is one.
        overshoot: By how much it can be passed then, in words.
    """

    cost: Cost
    lacking: str = ""
    overshoot: str = ""


def request_bound(
    lm: Any,
    inputs: Mapping[str, Any],
    *,
    tokens: bool,
    dollars: bool,
    prices: Mapping[str, Price],
    retries: int = 0,
) -> Bound:
    """The most a request to a language model can cost.

    The prompt is counted with the model's own tokenizer for OpenAI's models, through LiteLLM, which has theirs on
    disk. For every other model it is the number of UTF-8 bytes, which no byte-level vocabulary can exceed, plus what
    chat templates add. The completion is ``max_tokens``, for each choice.

    Args:
        lm: The language model.
        inputs: The arguments of the call, as DSPy tells callbacks.
        tokens: Whether tokens are capped.
        dollars: Whether dollars are.
        prices: The pool's.
        retries: Requests that DSPy may make for this one again, where that cannot be seen.
    """
    kwargs = {**getattr(lm, "kwargs", {}), **(inputs.get("kwargs") or {})}
    choices = kwargs.get("n")
    requests = (choices if isinstance(choices, int) and choices > 0 else 1) * (1 + retries)
    if not tokens and not dollars:
        return Bound(Cost(requests=requests))
    model = str(getattr(lm, "model", ""))
    lacking = overshoot = ""
    prompt = _prompt_tokens(model, inputs, kwargs)
    if prompt is None:
        prompt, lacking, overshoot = 0, "its prompt holds more than text", "what that counts as"
    given = kwargs.get("request") or inputs.get("prompt")
    completion = _max_tokens(kwargs) or _max_tokens(vars_of(getattr(given, "config", None)))
    if completion is None:
        lacking = "it has no max_tokens"
        most = listed(model).get("max_output_tokens")
        overshoot = f"{most} tokens a request" if isinstance(most, int) else "whatever the model writes"
        completion = 0
    price = worst_price(model, kwargs, prices) if dollars else None
    if dollars and price is None:
        lacking = lacking or f"the price of {model} is not known (give the pool prices={{{model!r}: Price(...)}})"
        overshoot = overshoot or "the price of all of it"
    prompt, completion = prompt * requests, completion * requests
    return Bound(
        Cost(
            requests=requests,
            prompt_tokens=prompt,
            completion_tokens=completion,
            nanodollars=price.nanodollars(prompt, completion) if price is not None else 0,
        ),
        lacking,
        overshoot,
    )


def unseen_routes(lm: Any, inputs: Mapping[str, Any]) -> str:
    """What makes one request of a language model several that nobody tells us of, in words; empty if nothing does.

    Args:
        lm: The language model.
        inputs: The arguments of the call.
    """
    kwargs = {**getattr(lm, "kwargs", {}), **(inputs.get("kwargs") or {})}
    found = [name for name in _UNSEEN_ROUTES if kwargs.get(name)]
    return f"{' and '.join(found)} make requests that are not seen" if found else ""


_UNSEEN_ROUTES = ("fallbacks", "context_window_fallback_dict", "model_list", "max_retries")
"""Settings with which LiteLLM asks other models, or the same one again, inside one request of DSPy's."""


def request_cost(
    lm: Any,
    inputs: Mapping[str, Any],
    *,
    bound: Cost,
    lacking: str,
    metered: bool,
    reports: Sequence[Mapping[str, Any]] | None,
    entry: Mapping[str, Any] | None,
    outputs: Any,
    error: BaseException | None,
    prices: Mapping[str, Price],
) -> tuple[Cost, str]:
    """What a request came to, and why its report was not believed if it was not; then it is charged at the bound.

    Args:
        lm: The language model.
        inputs: The arguments of the call.
        bound: The most it can cost.
        lacking: What is missing for that to be an upper bound; empty if it is one.
        metered: Whether tokens or dollars are capped.
        reports: What the provider reported, once per answer; None if DSPy's cache answered.
        entry: DSPy's history entry of the call, if it kept one.
        outputs: What came back.
        error: The error, if it failed.
        prices: The pool's.
    """
    most = bound
    if error is not None:
        if was_never_sent(error):
            return Cost(), ""
        used = _sum(reports or ())
        if used is not None and used.tokens:
            return _priced(lm, inputs, used + Cost(requests=most.requests), None, prices, most.nanodollars > 0), ""
        if was_refused(error):
            return Cost(requests=most.requests), ""
        return most, ""  # the server may have generated all of it
    calls = _requests(entry, most.requests)
    if reports is None:
        return Cost(requests=calls, cached_requests=calls), ""
    texts = _texts_of(outputs)
    used = _sum(reports)
    distrust = ""
    choices = len(outputs) if isinstance(outputs, (list, tuple)) else 1
    if used is None or not used.tokens:
        distrust = "no usage" if used is not None else "an absurd usage"
    elif texts and not used.completion_tokens:
        distrust = "no tokens for a text it wrote"
    elif calls == 1 and choices > 1 and used.completion_tokens * BYTES_PER_TOKEN < sum(map(_bytes, texts)):
        distrust = MISCOUNTED
    elif metered and not lacking and _beyond(used, most):
        distrust = "more usage than the request allowed"
    if distrust:
        if metered and not lacking:
            return Cost(**{**vars_of(most), "requests": calls}), distrust
        # Without a bound the best guess: what there is to see, counted like a prompt.
        seen = Cost(prompt_tokens=most.prompt_tokens, completion_tokens=sum(map(_bytes, texts)) // 3)
        if distrust == MISCOUNTED:
            assert used is not None
            seen = replace(used, completion_tokens=max(used.completion_tokens * choices, seen.completion_tokens))
        return _priced(lm, inputs, seen + Cost(requests=calls), None, prices, most.nanodollars > 0), distrust
    assert used is not None
    cost = _priced(lm, inputs, used + Cost(requests=calls), entry, prices, most.nanodollars > 0)
    if metered and not lacking and cost.nanodollars > most.nanodollars > 0:
        return Cost(**{**vars_of(cost), "nanodollars": most.nanodollars}), "a price above the listed one"
    return cost, ""


def choice_bound(lm: Any, inputs: Mapping[str, Any], *, dollars: bool, prices: Mapping[str, Price]) -> Cost:
    """The most that one further choice of a request can cost. The prompt is paid for by whoever asks."""
    kwargs = {**getattr(lm, "kwargs", {}), **(inputs.get("kwargs") or {})}
    completion = _max_tokens(kwargs) or 0
    price = worst_price(str(getattr(lm, "model", "")), kwargs, prices) if dollars else None
    return Cost(completion_tokens=completion, nanodollars=price.nanodollars(0, completion) if price is not None else 0)


def split(cost: Cost, choices: int) -> list[Cost]:
    """What each choice of a request cost: all of them what was written, evenly, and the first what was read.

    Example:
        >>> first, second = split(Cost(requests=1, prompt_tokens=100, completion_tokens=21), 2)
        >>> first.prompt_tokens, first.completion_tokens, second.prompt_tokens, second.completion_tokens
        (100, 11, 0, 10)
    """
    if choices == 1:
        return [cost]
    each, more = divmod(cost.completion_tokens, choices)
    written = [each + (i < more) for i in range(choices)]
    others = [
        Cost(completion_tokens=tokens, nanodollars=cost.nanodollars * tokens // max(cost.tokens, 1))
        for tokens in written[1:]
    ]
    return [cost - sum(others, Cost()), *others]


def vars_of(value: Any) -> dict[str, Any]:
    """The attributes of an object, or none."""
    return dict(vars(value)) if hasattr(value, "__dict__") else {}


def _beyond(used: Cost, most: Cost) -> bool:
    return used.prompt_tokens > most.prompt_tokens or used.completion_tokens > most.completion_tokens


def _requests(entry: Mapping[str, Any] | None, most: int) -> int:
    # DSPy's native engine makes one request for each choice, and keeps their responses as a tuple.
    response = entry.get("response") if entry else None
    return min(len(response), most) if isinstance(response, (list, tuple)) and response else 1


def _sum(reports: Sequence[Mapping[str, Any]]) -> Cost | None:
    """Reports as one cost; None if one is absurd."""
    total = Cost()
    for report in reports:
        prompt = report.get("prompt_tokens", report.get("input_tokens")) or 0
        completion = report.get("completion_tokens", report.get("output_tokens")) or 0
        whole = report.get("total_tokens") or 0
        details = report.get("prompt_tokens_details") or {}
        details = details if isinstance(details, Mapping) else vars_of(details)
        cached = details.get("cached_tokens") or 0
        counts = (prompt, completion, whole, cached)
        if any(isinstance(n, bool) or not isinstance(n, int) or not 0 <= n <= LARGEST for n in counts):
            return None
        completion = max(completion, whole - prompt)  # hidden reasoning is in the total of some providers alone
        total += Cost(prompt_tokens=prompt, completion_tokens=completion, cached_tokens=min(cached, prompt))
    return total


def _priced(
    lm: Any,
    inputs: Mapping[str, Any],
    cost: Cost,
    entry: Mapping[str, Any] | None,
    prices: Mapping[str, Price],
    dollars: bool,
) -> Cost:
    model = str(getattr(lm, "model", ""))
    reported = entry.get("cost") if entry else None
    if model in prices:
        nanodollars = prices[model].nanodollars(cost.prompt_tokens, cost.completion_tokens, cost.cached_tokens)
    elif isinstance(reported, (int, float)) and 0 <= reported < math.inf:
        nanodollars = math.ceil(reported * NANO - 1e-6)
    else:
        kwargs = {**getattr(lm, "kwargs", {}), **(inputs.get("kwargs") or {})}
        # Where dollars are capped the bound was priced, and nothing is free because DSPy could not price it.
        price = worst_price(model, kwargs, {}) if dollars or "input_cost_per_token" in kwargs else None
        nanodollars = price.nanodollars(cost.prompt_tokens, cost.completion_tokens) if price else 0
    return cost + Cost(nanodollars=nanodollars)


def _max_tokens(kwargs: Mapping[str, Any]) -> int | None:
    values = (kwargs.get(name) for name in ("max_tokens", "max_completion_tokens", "max_output_tokens"))
    found = [value for value in values if isinstance(value, int) and not isinstance(value, bool) and value > 0]
    return max(found, default=None)


def _prompt_tokens(model: str, inputs: Mapping[str, Any], kwargs: Mapping[str, Any]) -> int | None:
    """An upper bound on the prompt's tokens; None if it is not all text."""
    messages = inputs.get("messages")
    shown: list[Any] = list(messages) if messages else [inputs.get("prompt") or kwargs.get("request")]
    texts: list[str] = []
    for part in (*shown, kwargs.get("tools"), kwargs.get("functions"), kwargs.get("response_format")):
        if not _collect(part, texts):
            return None
    overhead = PER_REQUEST + PER_MESSAGE * len(shown)
    provider, _, name = model.partition("/")
    if provider in ("openai", "azure") and name.startswith(_OPENAI) and not _elsewhere(kwargs):
        counted = _tiktoken(name, "\n".join(texts))
        if counted is not None:
            return counted + overhead
    return sum(map(_bytes, texts)) + overhead


def _elsewhere(kwargs: Mapping[str, Any]) -> bool:
    # Behind another address an OpenAI name may stand for any model.
    address = kwargs.get("api_base") or kwargs.get("base_url") or ""
    return bool(address) and "openai." not in str(address)


def _tiktoken(model: str, text: str) -> int | None:
    try:
        import litellm  # takes seconds, once, and only where OpenAI's models are capped in tokens or dollars
    except Exception:
        return None
    try:
        return int(litellm.token_counter(model=model, text=text))
    except Exception:
        return None


def _collect(value: Any, texts: list[str]) -> bool:
    """Every text in a prompt, keys included; False if it holds anything but text."""
    if value is None or isinstance(value, (bool, int, float)):
        return True
    if isinstance(value, str):
        texts.append(value)
        return True
    if isinstance(value, Mapping):
        kind = value.get("type")
        if isinstance(kind, str) and any(word in kind for word in ("image", "audio", "video", "file", "document")):
            return False
        texts.extend(str(name) for name in value)
        return all(_collect(item, texts) for item in value.values())
    if isinstance(value, (list, tuple, set, frozenset)):
        return all(_collect(item, texts) for item in value)
    if isinstance(value, type):
        schema = getattr(value, "model_json_schema", None)
        texts.append(json.dumps(schema()) if schema else value.__name__)
        return True
    kind = getattr(value, "type", "")
    if isinstance(kind, str) and any(word in kind for word in ("image", "audio", "video", "document", "binary")):
        return False
    fields = getattr(value, "__dataclass_fields__", None) or vars_of(value)
    return all(_collect(getattr(value, name, None), texts) for name in fields)


def _texts_of(outputs: Any) -> list[str]:
    texts = []
    for output in outputs if isinstance(outputs, (list, tuple)) else [outputs]:
        text = output.get("text") if isinstance(output, Mapping) else output
        if isinstance(text, str) and text:
            texts.append(text)
    return texts


def _bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "replace"))


def answered_by_cache(lm: Any, inputs: Mapping[str, Any]) -> bool:
    """Whether DSPy's cache holds the answer to a synchronous call that is about to be made; False if in doubt."""
    if "asyncio" in sys.modules and sys.modules["asyncio"]._get_running_loop() is not None:
        return False  # asynchronous calls have cache entries of their own
    try:
        from dspy.clients import execution

        call = execution.prepare(lm, inputs.get("prompt"), inputs.get("messages"), dict(inputs.get("kwargs") or {}))
        return execution._cached(lm, call, False) is not None
    except Exception:  # another DSPy than this was written for
        return False
