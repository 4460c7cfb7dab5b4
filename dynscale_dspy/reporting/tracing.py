"""Attributes about sampling on the spans of MLflow's tracing, or of any OpenTelemetry tracer.

Neither is imported here: attributes are set only on spans that the user's own tracing has opened.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Mapping
from typing import Any

from dspy.utils.callback import BaseCallback

from dynscale_dspy.reporting import text

logger = logging.getLogger(__name__)

_LONGEST_TEXT = 200


def is_on() -> bool:
    """Whether a tracing library is loaded, so that a span may be open."""
    return "mlflow" in sys.modules or "opentelemetry.trace" in sys.modules


def annotate(attributes: Mapping[str, Any]) -> None:
    """Set attributes, with the prefix ``dynscale.``, on the span that is open here; without one, do nothing.

    An error of the tracing library costs the attributes, not the call.
    """
    try:
        span = _open_span()
        if span is not None:
            span.set_attributes({f"dynscale.{name}": _plain(value) for name, value in attributes.items()})
    except Exception:
        logger.debug("attributes of a span could not be set", exc_info=True)


def _open_span() -> Any:
    # By default MLflow does not show its spans to OpenTelemetry, so ask it first.
    active = getattr(sys.modules.get("mlflow"), "get_current_active_span", None)
    span = active() if active is not None else None
    if span is None:
        current = getattr(sys.modules.get("opentelemetry.trace"), "get_current_span", None)  # may be half imported
        span = current() if current is not None else None
        span = span if span is not None and span.is_recording() else None
    return span


def _plain(value: Any) -> Any:
    try:
        if value is None or isinstance(value, bool):
            return "" if value is None else value
        if isinstance(value, int) and int.bit_length(value) < 64:  # no tracer takes a longer one
            return int.__int__(value)
        if isinstance(value, float):
            return float.__float__(value)
        if isinstance(value, (list, tuple)):
            return [_plain(item) for item in value]
    except Exception:  # of the value's class, or since it contains itself
        pass
    return text.said(value)[:_LONGEST_TEXT]


class SpanMark(BaseCallback):
    """A callback that sets attributes on the span of one sample: that of the first module call made in it.

    DSPy runs callbacks in the order they are listed, the tracer's own among them. List a mark with ``started`` after
    the tracer, which by then has opened the span, and one with ``ended`` before the tracer, which closes it.

    Args:
        started: Gives the attributes to set when the call starts; None for none.
        ended: Gives those to set when it ends, from the module's outputs and its exception; None for none.
    """

    def __init__(
        self,
        *,
        started: Callable[[], Mapping[str, Any]] | None = None,
        ended: Callable[[Any, BaseException | None], Mapping[str, Any]] | None = None,
    ) -> None:
        self._started = started
        self._ended = ended
        self._call: str | None = None

    def on_module_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        """Called by DSPy as a module call starts; the first one is the sample."""
        if self._call is None:
            self._call = call_id
            if self._started is not None:
                annotate(self._started())

    def on_module_end(self, call_id: str, outputs: Any, exception: BaseException | None = None) -> None:  # type: ignore[override]  # cancellation is one too
        """Called by DSPy as a module call ends."""
        if call_id == self._call and self._ended is not None:
            annotate(self._ended(outputs, exception))
