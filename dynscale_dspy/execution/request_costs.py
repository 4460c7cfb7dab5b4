"""What a request costs: the most it can come to before it is made, and what it came to when it is over."""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

from dynscale_dspy.allocation.costs import NANO, NOTHING, Cost
from dynscale_dspy.budget.prices import Price, listed, worst_price
from dynscale_dspy.execution.choices_route import LIBRARY, makes_one_request
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
DEAREST = 10_000
"""Dollars that no request can cost."""
ABSURD = "an absurd usage"

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


_IN_FLIGHT = "for each request in flight"
_ONE_REQUEST = Bound(Cost(requests=1))
"""That of most requests, where neither tokens nor dollars are capped."""


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
        return _ONE_REQUEST if requests == 1 else Bound(Cost(requests=requests))
    model = str(getattr(lm, "model", ""))
    lacking = overshoot = ""
    prompt = _prompt_tokens(model, inputs, kwargs)
    if prompt is None:
        prompt, lacking, overshoot = 0, "its prompt holds more than text", f"what that counts as {_IN_FLIGHT}"
    given = kwargs.get("request") or inputs.get("prompt")
    completion = most_tokens(kwargs) or most_tokens(vars_of(getattr(given, "config", None)))
    if completion is None:
        lacking = "it has no max_tokens"
        most = listed(model).get("max_output_tokens")
        overshoot = f"{most} tokens" if isinstance(most, int) else "whatever the model writes"
        overshoot += f" {_IN_FLIGHT}"
        completion = 0
    price = worst_price(model, kwargs, prices) if dollars else None
    if dollars and price is None:
        unpriced = f"the price of {model} is not known (give the pool prices={{{model!r}: Price(...)}})"
        lacking = f"{lacking}, and {unpriced}" if lacking else unpriced
        # No number of requests in flight limits this: without a price nothing adds up.
        overshoot = "any amount, since each request counts as $0 unless its provider reports what it cost"
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
    litellm = sys.modules.get(LIBRARY)
    if litellm is not None and ((kwargs.get("n") or 1) != 1 or makes_one_request(lm, kwargs)):
        settings = vars(litellm)  # what is not there yet is not to be imported for this
        found += [f"{LIBRARY}.{name}" for name in _UNSEEN_EVERYWHERE if settings.get(name)]
    return f"{' and '.join(found)} make requests that are not seen" if found else ""


_UNSEEN_ROUTES = ("fallbacks", "context_window_fallback_dict", "model_list", "max_retries", "retry_policy")
"""Settings with which LiteLLM asks other models, or the same one again, inside one request of DSPy's."""
_UNSEEN_EVERYWHERE = ("model_fallbacks", "num_retries")
"""Those of the whole process, which LiteLLM follows where a request says nothing."""


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
    """What a request came to, and what was odd about its report.

    What a provider says was used is what it came to, if it is more than the bound too. Only where that cannot be, or is
    missing, the request is charged at its bound. No report makes this raise.

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
    try:
        return _request_cost(lm, inputs, bound, lacking, metered, reports, entry, outputs, error, prices)
    except Exception:  # a report of a kind that nobody has thought of
        return bound, ABSURD


def _request_cost(
    lm: Any,
    inputs: Mapping[str, Any],
    most: Cost,
    lacking: str,
    metered: bool,
    reports: Sequence[Mapping[str, Any]] | None,
    entry: Mapping[str, Any] | None,
    outputs: Any,
    error: BaseException | None,
    prices: Mapping[str, Price],
) -> tuple[Cost, str]:
    if error is not None:
        if was_never_sent(error):
            return Cost(), ""
        used = _sum(reports or ())
        if used is not None and used.tokens:
            reported = _reported_cost(entry, reports or ())
            cost = used + Cost(requests=most.requests)
            return _priced(lm, inputs, cost, reported, prices, most.nanodollars > 0), ""
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
        distrust = "no usage" if used is not None else ABSURD
    elif texts and not used.completion_tokens:
        distrust = "no tokens for a text it wrote"
    elif calls == 1 and choices > 1 and used.completion_tokens * BYTES_PER_TOKEN < sum(map(_bytes, texts)):
        distrust = MISCOUNTED
    reported = _reported_cost(entry, reports)
    if distrust:
        if metered and not lacking:
            charged = Cost(**{**vars_of(most), "requests": calls})
            return _at_least(charged, lm, prices, reported), distrust
        # Without a bound the best guess: what there is to see, counted like a prompt.
        seen = Cost(prompt_tokens=most.prompt_tokens, completion_tokens=sum(map(_bytes, texts)) // 3)
        if distrust == MISCOUNTED:
            assert used is not None
            seen = replace(used, completion_tokens=max(used.completion_tokens * choices, seen.completion_tokens))
        return _priced(lm, inputs, seen + Cost(requests=calls), reported, prices, most.nanodollars > 0), distrust
    assert used is not None
    cost = _priced(lm, inputs, used + Cost(requests=calls), reported, prices, most.nanodollars > 0)
    if metered and not lacking and _beyond(used, most):
        return cost, "more usage than the request allowed"
    if metered and not lacking and cost.nanodollars > most.nanodollars > 0:
        return cost, "a price above the listed one"
    return cost, ""


def choice_bound(lm: Any, inputs: Mapping[str, Any], *, dollars: bool, prices: Mapping[str, Price]) -> Cost:
    """The most that one further choice of a request can cost. The prompt is paid for by whoever asks."""
    kwargs = {**getattr(lm, "kwargs", {}), **(inputs.get("kwargs") or {})}
    completion = most_tokens(kwargs) or 0
    price = worst_price(str(getattr(lm, "model", "")), kwargs, prices) if dollars else None
    return Cost(completion_tokens=completion, nanodollars=price.nanodollars(0, completion) if price is not None else 0)


def price_of(lm: Any, inputs: Mapping[str, Any], prices: Mapping[str, Price]) -> Price | None:
    """The most a token of a request costs, or None if nobody knows."""
    kwargs = {**getattr(lm, "kwargs", {}), **(inputs.get("kwargs") or {})}
    return worst_price(str(getattr(lm, "model", "")), kwargs, prices)


def split(cost: Cost, bounds: Sequence[Cost], price: Price | None = None) -> list[Cost]:
    """What each choice of a request cost: all of them what was written, evenly, and the first what was read.

    The shares sum to the whole in every unit. None passes its bound unless the whole passes all of them together.

    Args:
        cost: What the request cost.
        bounds: What was set aside for each choice; the first one's is for the prompt too.
        price: What a token costs, if that is known: money is shared as it tells what was read from what was written.

    Example:
        >>> whole = Cost(requests=1, prompt_tokens=100, completion_tokens=21)
        >>> first, second = split(whole, [Cost(prompt_tokens=200, completion_tokens=50), Cost(completion_tokens=50)])
        >>> first.prompt_tokens, first.completion_tokens, second.prompt_tokens, second.completion_tokens
        (100, 11, 0, 10)
    """
    if len(bounds) == 1:
        return [cost]
    written = _shared(cost.completion_tokens, [1] * len(bounds), [bound.completion_tokens for bound in bounds])
    read = [cost.prompt_tokens, *[0] * (len(bounds) - 1)]
    if price is not None:
        weights = [price.nanodollars(*tokens) for tokens in zip(read, written, strict=True)]
    else:
        weights = list(map(sum, zip(read, written, strict=True)))
    paid = _shared(cost.nanodollars, weights, [bound.nanodollars for bound in bounds])
    others = [
        Cost(completion_tokens=tokens, nanodollars=money) for tokens, money in zip(written[1:], paid[1:], strict=True)
    ]
    return [cost - sum(others, Cost()), *others]


def _shared(whole: int, weights: Sequence[int], most: Sequence[int]) -> list[int]:
    """Integers in proportion to the weights that sum to the whole; none above its most, if all of them allow that."""
    if not any(weights):
        weights = [1] * len(weights)
    total, heaped, shares, handed = sum(weights), 0, [], 0
    for weight in weights:
        heaped += weight
        upto = -(-whole * heaped // total)
        shares.append(upto - handed)
        handed = upto
    if whole <= sum(most):
        shares = [min(share, bound) for share, bound in zip(shares, most, strict=True)]
        left = whole - sum(shares)
        for place, bound in enumerate(most):
            more = min(bound - shares[place], left)
            shares[place] += more
            left -= more
    return shares


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
    total = NOTHING
    for report in reports:
        prompt = report.get("prompt_tokens", report.get("input_tokens")) or 0
        completion = report.get("completion_tokens", report.get("output_tokens")) or 0
        whole = report.get("total_tokens") or 0
        details = report.get("prompt_tokens_details") or {}
        details = details if isinstance(details, Mapping) else vars_of(details)
        cached = details.get("cached_tokens") or 0
        counts = (prompt, completion, whole, cached)
        for n in counts:
            if isinstance(n, bool) or not isinstance(n, int) or not 0 <= n <= LARGEST:
                return None
        completion = max(completion, whole - prompt)  # hidden reasoning is in the total of some providers alone
        total += Cost(prompt_tokens=prompt, completion_tokens=completion, cached_tokens=min(cached, prompt))
    return total


def _priced(
    lm: Any,
    inputs: Mapping[str, Any],
    cost: Cost,
    reported: int | None,
    prices: Mapping[str, Price],
    dollars: bool,
) -> Cost:
    model = str(getattr(lm, "model", ""))
    if model in prices:
        nanodollars = prices[model].nanodollars(cost.prompt_tokens, cost.completion_tokens, cost.cached_tokens)
    elif reported is not None:
        nanodollars = reported
    else:
        kwargs = {**getattr(lm, "kwargs", {}), **(inputs.get("kwargs") or {})}
        # Where dollars are capped the bound was priced, and nothing is free because DSPy could not price it.
        price = worst_price(model, kwargs, {}) if dollars or "input_cost_per_token" in kwargs else None
        nanodollars = price.nanodollars(cost.prompt_tokens, cost.completion_tokens) if price else 0
    return cost + Cost(nanodollars=nanodollars) if nanodollars else cost


def _at_least(cost: Cost, lm: Any, prices: Mapping[str, Price], reported: int | None) -> Cost:
    """A cost, and at least the money that the provider reports; unless the pool has a price of its own."""
    if reported is None or str(getattr(lm, "model", "")) in prices:
        return cost
    return cost.at_least(Cost(nanodollars=reported))


def _reported_cost(entry: Mapping[str, Any] | None, reports: Sequence[Mapping[str, Any]]) -> int | None:
    """Nanodollars that the request cost: as the provider says, else as DSPy does; None if neither says it.

    LiteLLM hands the provider's figure on in the usage; DSPy's native engine keeps it in what it does not read itself.
    """
    response = entry.get("response") if entry else None
    responses = response if isinstance(response, (list, tuple)) else [response]
    raw = [_field(_field(each, "provider_data"), "usage") or _field(each, "usage") for each in responses]
    for usages in (raw, reports):
        said = [_nanodollars(_field(usage, "cost")) for usage in usages]
        if said and None not in said:
            return sum(each for each in said if each is not None)
    return _nanodollars(entry.get("cost")) if entry else None


def _field(value: Any, name: str) -> Any:
    return value.get(name) if isinstance(value, Mapping) else getattr(value, name, None)


def _nanodollars(dollars: Any) -> int | None:
    """Dollars as a provider reports them, in billionths, rounded up; None if they are no such thing."""
    if isinstance(dollars, Mapping):
        dollars = dollars.get("total_cost")
    if isinstance(dollars, str) and _DECIMAL.fullmatch(dollars):
        dollars = float(dollars)
    if isinstance(dollars, bool) or not isinstance(dollars, (int, float)) or not 0 <= dollars <= DEAREST:
        return None
    return math.ceil(dollars * NANO - 1e-6)


_DECIMAL = re.compile(r"\d{1,9}(?:\.\d{0,30})?(?:[eE][-+]?\d{1,2})?", re.ASCII)
"""A number in a text."""


def most_tokens(kwargs: Mapping[str, Any]) -> int | None:
    """The most tokens that a request with these settings can write; None if they do not say."""
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


def usage_in_cache(lm: Any, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
    """The usage that DSPy's cache keeps with an answer and hands to nobody; empty if there is none to be found.

    Args:
        lm: The language model.
        inputs: The arguments of the call that the cache has answered.
    """
    try:
        import dspy
        from dspy.clients import execution

        call = execution.prepare(lm, inputs.get("prompt"), inputs.get("messages"), dict(inputs.get("kwargs") or {}))
        cache, key = dspy.cache, call.key(lm, _in_task())
        key = cache.cache_key(key, execution.IGNORED_CACHE_KEYS)
        with getattr(cache, "_lock", None) or nullcontext():  # to look at it moves it to the front
            record = cache.memory_cache.get(key) if cache.enable_memory_cache else None
        if record is None and cache.enable_disk_cache:
            record = cache.disk_cache.get(key)
        return dict(_field(record, "usage") or {})
    except Exception:  # another DSPy than this was written for
        return {}


def costs_last() -> bool:
    """Whether DSPy's cache keeps the usage of its answers where :func:`usage_in_cache` finds it."""
    try:
        from dspy.clients import execution
    except ImportError:  # before DSPy 3.4
        return False
    return all(hasattr(execution, name) for name in ("prepare", "IGNORED_CACHE_KEYS"))


def answered_by_cache(lm: Any, inputs: Mapping[str, Any]) -> bool:
    """Whether DSPy's cache holds the answer to a synchronous call that is about to be made; False if in doubt."""
    if _in_task():
        return False  # asynchronous calls have cache entries of their own
    try:
        from dspy.clients import execution

        call = execution.prepare(lm, inputs.get("prompt"), inputs.get("messages"), dict(inputs.get("kwargs") or {}))
        return execution._cached(lm, call, False) is not None
    except Exception:  # another DSPy than this was written for
        return False


def _in_task() -> bool:
    return "asyncio" in sys.modules and sys.modules["asyncio"]._get_running_loop() is not None
