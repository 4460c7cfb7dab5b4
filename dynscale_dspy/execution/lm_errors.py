"""What an error of a language model means: every reading of one is here.

DSPy 3.4 has errors of its own (``LMError`` and its kinds); before, and with some settings today, those of LiteLLM come
through. Kinds are told by name, so that neither library's errors need to exist, and LiteLLM need not be imported.
"""

from __future__ import annotations

import math

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


def was_never_sent(error: BaseException) -> bool:
    """Return True if no request went out, so that nothing can be billed.

    Either the language model was not set up, or there was no connection to send the request over, or LiteLLM knew that
    the provider would not take it.
    """
    if _is_any(error, _NO_REQUEST):
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
