"""What an error of a language model means: every reading of one is here.

DSPy 3.4 has errors of its own (``LMError`` and its kinds); before, and with some settings today, those of LiteLLM come
through. Kinds are told by name, so that neither library's errors need to exist, and LiteLLM need not be imported.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterator, Mapping
from functools import cache
from typing import Any, NamedTuple

import dspy

_NO_REQUEST = ("LMConfigurationError", "LMNotConfiguredError")
_REFUSALS = ("LMAuthError", "LMBillingError", "LMRateLimitError", "LMInvalidRequestError", "LMUnsupportedModelError")
_UNSENT = (
    "ConnectError",
    "ConnectTimeout",
    "PoolTimeout",
    "ConnectionRefusedError",
    "gaierror",
    "UnsupportedParamsError",
)
_PERMANENT = (
    "LMAuthError",
    "LMBillingError",
    "LMUnsupportedModelError",
    *_NO_REQUEST,
    # LiteLLM's names, which DSPy before 3.4 lets through.
    "AuthenticationError",
    "PermissionDeniedError",
    "NotFoundError",
)
_UNSUPPORTED = ("UnsupportedParamsError", "LMUnsupportedFeatureError", "LMInvalidRequestError")
_UNSUPPORTED_STATUSES = (400, 404, 405, 415, 422, 501)

_is_retryable = getattr(dspy, "is_retryable_lm_error", None)  # since 3.4; before, LiteLLM retries unseen

RETRIES_ARE_SEEN = _is_retryable is not None
"""Whether DSPy's retries can be made by us, one request at a time, since it says which errors it would retry."""


def is_permanent(error: BaseException | None) -> bool:
    """Return True if trying again is pointless: a wrong key, an unknown model, a language model set up wrongly."""
    return error is not None and _is_any(error, _PERMANENT)


def is_retryable(error: BaseException) -> bool:
    """Return True if DSPy would make the request again; always False before DSPy 3.4."""
    return _is_retryable is not None and bool(_is_retryable(error))


def is_context_overflow(error: BaseException) -> bool:
    """Return True if the prompt was too long for the model."""
    return _is_any(error, ("ContextWindowExceededError",))


def is_unreadable(error: BaseException) -> bool:
    """Return True if there was a reply and the adapter could not read it."""
    return isinstance(error, dspy.utils.exceptions.AdapterParseError)


def is_unexpected(error: BaseException) -> bool:
    """Return True if the client itself failed, as on a reply whose shape it did not expect."""
    return _is_any(error, ("LMUnexpectedError",))


def was_never_sent(error: BaseException) -> bool:
    """Return True if no request went out, so that nothing can be billed.

    Either the language model was not set up, or there was no connection to send the request over, or LiteLLM knew that
    the provider would not take it, or a language model of the user's own has no such argument.
    """
    if _is_any(error, _NO_REQUEST) or _unknown_argument(error, "forward() got an "):
        return True
    kinds = [(type(cause).__module__, type(cause).__name__) for cause in _causes(error)]
    # DSPy's native transport has an error of no particular kind for "none free in time" and for "closed".
    return any(
        name in _UNSENT or (name == "TransportError" and module.endswith("lm15.transports._exceptions"))
        for module, name in kinds
    )


def was_refused(error: BaseException) -> bool:
    """Return True if the server turned the request away, so that nothing was generated."""
    if _is_any(error, _REFUSALS):
        return True
    status = status_of(error)
    if status is None or not 400 <= status < 600 or status in (408, 504, 524):
        return False
    causes = _causes(error)
    if status >= 500 and any(type(cause).__module__.startswith("litellm") for cause in causes):
        # LiteLLM calls a broken connection or an unreadable reply a 500 too.
        return any(type(cause).__name__ == "HTTPStatusError" for cause in causes)
    return True


def has_unsupported_status(error: BaseException) -> bool:
    """Return True if the status says that the server does not take what the request holds."""
    return status_of(error) in _UNSUPPORTED_STATUSES


def is_unsupported(error: BaseException) -> bool:
    """Return True if the request was turned away for what it asked, so that asking for less may help."""
    return (has_unsupported_status(error) or _is_any(error, _UNSUPPORTED)) and not is_context_overflow(error)


def has_crashed(error: BaseException, *, again: bool = False) -> bool:
    """Return True if the server answered that it has failed on the request, and not that it is busy or down.

    Args:
        error: The error.
        again: Whether the same has failed before, or is not tried again: a server that still says that it is
            unavailable may mean the request.
    """
    return status_of(error) in ((500, 502, 503) if again else (500, 502)) and was_refused(error)


def may_be_too_large(error: BaseException) -> bool:
    """Return True if a server takes no more now and names no time: one request may ask for more than its rate is."""
    return status_of(error) == 429 and retry_after(error) is None


def speaks_of(error: BaseException, name: str) -> bool:
    """Return True if a server's words name a setting, whatever they say of it."""
    return _mention(name).search(_Told(error).text) is not None


class Complaint(NamedTuple):
    """What a server says of the settings of a request that it turned away."""

    refused: Mapping[str, frozenset[str]]
    """The settings it does not take, by name, and beside which others; an empty set for always."""
    of_value: bool = False
    """Whether another value of the same setting would do, as where one is out of range."""
    unexplained: bool = False
    """Whether it names no reason that is known, so that a setting may be one."""
    says_nothing: bool = False
    """Whether it has no words of its own."""
    of_any_value: bool = False
    """Whether no value of the setting would do."""


OTHER = Complaint({})
"""The request was turned away for something else, or not at all."""


def complaint_of(error: BaseException, names: Collection[str], settings: Mapping[str, Any]) -> Complaint:
    """Read why a request was turned away, as far as some of its settings may be the reason.

    Providers say it in a parameter's name, in a code, in words, or not at all, as the native engine does not hand on
    replies of some shapes. Whatever else a request may be turned away for comes first: its length, its content, a
    schema. A reading of words can be wrong: who acts on it sees whether asking without the setting helps.

    Args:
        error: The error.
        names: The settings to look for.
        settings: All settings of the request.
    """
    unknown = _unknown_argument(error)
    if unknown:  # to a language model of the user's own
        return Complaint({unknown: frozenset()}, of_any_value=True) if unknown in names else OTHER
    telling = has_unsupported_status(error) or _is_any(error, _UNSUPPORTED)
    told = _Told(error)
    # Who chooses among servers answers 404 where none of them takes what is asked for.
    permanent = is_permanent(error) and not (status_of(error) == 404 and _NONE_TAKES.search(told.text))
    if is_context_overflow(error) or permanent or not (telling or status_of(error) == 500):
        return OTHER
    found = told.fields & set(names)
    if not found:
        if told.fields - _SAMPLING or told.codes & _OTHER_CODES or _ELSEWHERE.search(told.text):
            return OTHER
        found = {name for name in names if _mention(name).search(told.text)}
    beside = {name for name, value in settings.items() if value is not None and name not in names}
    others = frozenset(name for name in beside if _mention(name).search(told.text))
    if found:
        of_any_value = bool(told.codes & _UNKNOWN_CODES or _OF_ANY_VALUE.search(told.text))
        return Complaint(dict.fromkeys(found, others), bool(_OF_VALUE.search(told.text)), of_any_value=of_any_value)
    if not telling or others - _SAMPLING or _FIELDS.search(told.text):
        return OTHER
    empty = not _GENERIC.sub("", told.text).strip(" .,:;-()")
    return Complaint({}, unexplained=True, says_nothing=empty or bool(told.codes & _UNSUPPORTED_CODES))


class _Told:
    """What an error and its causes tell: words, codes, and names of fields."""

    def __init__(self, error: BaseException) -> None:
        words: list[str] = []
        self.codes: set[str] = set()
        self.fields: set[str] = set()
        causes = _causes(error)
        for cause in causes:
            body = getattr(cause, "body", None)
            words.append(str(getattr(cause, "message", "") or ""))
            words.extend(self._read(body))
            self.codes |= {str(getattr(cause, name, None)) for name in ("provider_code", "code")}
            self._name(getattr(cause, "param", None))
        if not hasattr(error, "message"):
            words.append(str(error))
        # Validators quote the request, which names every setting of it.
        self.text = re.sub(r"""['"]input['"]\s*:\s*[^}]*""", "", " ".join(words))

    def _read(self, part: Any) -> Iterator[str]:
        """The words of a reply's body; its codes and fields are kept."""
        if isinstance(part, str):
            yield part
        elif isinstance(part, Mapping):
            for name, value in part.items():
                if name in ("param", "loc"):
                    self._name(value)
                elif name in ("code", "type"):
                    self.codes.add(str(value))
                elif name not in ("input", "ctx", "url"):
                    yield from self._read(value)
        elif isinstance(part, (list, tuple)):
            for each in part:
                yield from self._read(each)

    def _name(self, given: Any) -> None:
        """Keep the field that a path leads into: ``temperature`` of ``body.temperature``."""
        parts = list(given) if isinstance(given, (list, tuple)) else re.split(r"[.\[\]/]+", given or "")
        steps = [re.sub(r"(?<=[a-z])(?=[A-Z])", "_", part).lower() for part in parts if isinstance(part, str)]
        steps = [step for step in steps if step and step not in _CONTAINERS]
        self.fields |= set(steps[:1])


_CONTAINERS = frozenset(
    {"body", "none", "null", "model", "request", "config", "options", "generation_config", "inference_config"}
    | {"sampling_params", "extra_body", "additional_model_request_fields"}
)
"""Parts of a path to a field that say nothing of it."""
_SAMPLING = frozenset({"top_p", "top_k", "min_p", "thinking", "reasoning_effort", "reasoning"})
"""Fields that servers name where it is the temperature beside them that they do not take."""
_UNKNOWN_CODES = frozenset({"unsupported_parameter", "unknown_parameter", "extra_forbidden"})
_UNSUPPORTED_CODES = _UNKNOWN_CODES | {"unsupported_value"}
_OTHER_CODES = frozenset(
    {"context_length_exceeded", "content_filter", "content_policy_violation", "invalid_prompt", "model_not_found"}
    | {"string_above_max_length", "invalid_image", "invalid_image_url", "insufficient_quota"}
)
_ELSEWHERE = re.compile(
    r"context (?:length|window|size)|maximum context|too long|too many tokens|reduce the length|prompt is"
    r"|content (?:filter|policy|management)|content_filter|filtered|moderation|safety|usage polic"
    r"|json[_ ]?schema|response[_ ]?format|json_object|schema for|\bschema\b.*\bpropert"
    r"|\btools?\b|function[_ ](?:call|decl)|\bimages?\b|quota|billing|api key",
    re.IGNORECASE | re.DOTALL,
)
"""Words of other reasons to turn a request away."""
_NONE_TAKES = re.compile(r"\b(?:no|none)\b.*\b(?:support|handle|take|accept)\w*\b.*\bparameters?\b", re.IGNORECASE)
"""Words of a 404 that is about the settings of a request, not about the model."""
_FIELDS = re.compile(
    r"(?<![\w-])(?:messages?|roles?|content|max_(?:completion_|output_)?tokens|stop|stream\w*|logit_bias|\w+_penalty|user"
    r"|metadata)(?![\w-])",
    re.IGNORECASE,
)
"""Fields of a request that samples have as the plain program has them."""
_OF_VALUE = re.compile(
    r"between|\brange\b|(?:less|greater|larger|smaller|lower|higher) than|at (?:most|least)|above|below|m(?:ax|in)imum"
    r"|positive|negative|exceed|too (?:high|low|large|small)|[<>≤≥]"
    r"|valid (?:number|integer|float|boolean)|must be an? (?:number|integer|float|boolean)",
    re.IGNORECASE,
)
_OF_ANY_VALUE = re.compile(
    r"(?:unsupported|unknown|unrecognized|unexpected) (?:parameter|argument|field|keyword|setting)"
    r"|deprecated|extra input"
    r"|(?:not|n't) (?:support|take|accept|allow)\w* (?:the )?(?:parameters? )?\W?temperature"
    r"|temperature\W? (?:is|are) not (?:supported|allowed|permitted|available)",
    re.IGNORECASE,
)
"""Words of a refusal that no other value would mend."""
_GENERIC = re.compile(
    r"litellm\.\w+|\bhttp\b|\w+(?:Exception|Error)\b|error code|bad request|unprocessable (?:entity|content)"
    r"|provider returned error|(?:invalid|unsupported|unknown) (?:request|parameters?|arguments?|values?)"
    r"|(?:input |request )?validation (?:error|failed)|invalid_request\w*|\berror\b|\d+",
    re.IGNORECASE,
)
"""What messages consist of that say nothing."""
_PREFIXES = {"seed": "(?:random_?)?", "logprobs": "(?:response_?)?"}
"""What providers put before a setting's name."""


def _unknown_argument(error: BaseException, of: str = "") -> str:
    """The name of the argument that a function does not have; empty if the error is another."""
    found = re.search(rf"{re.escape(of)}unexpected keyword argument '(\w+)'", str(error))
    return found[1] if isinstance(error, TypeError) and found is not None else ""


@cache
def _mention(name: str) -> re.Pattern[str]:
    """A setting's name in a text, however it is written."""
    spelled = _PREFIXES.get(name, "") + re.escape(name).replace("_", "[_ ]?")
    return re.compile(rf"(?<![\w-]){spelled}(?![\w-])", re.IGNORECASE)


def status_of(error: BaseException) -> int | None:
    """The HTTP status of the server's answer, if the error has one."""
    status = getattr(error, "status", None) or getattr(error, "status_code", None)
    return status if isinstance(status, int) else None


def retry_after(error: BaseException) -> float | None:
    """The seconds after which the server asked to be tried again, if it did."""
    asked = getattr(error, "retry_after", None)
    return float(asked) if isinstance(asked, (int, float)) and 0 <= asked < math.inf else None


def _is_any(error: BaseException, names: tuple[str, ...]) -> bool:
    return any(kind.__name__ in names for kind in type(error).__mro__)


def _causes(error: BaseException) -> list[BaseException]:
    causes: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and len(causes) < 16:
        causes.append(cause)
        cause = cause.__cause__ or cause.__context__
    return causes
