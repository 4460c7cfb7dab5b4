"""Scaling attributes on the spans of the tracing that is on: MLflow's, or any OpenTelemetry tracer's.

Neither is imported here: attributes are set only where the user's own tracing has opened a span.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any

from dspy.utils.callback import BaseCallback

_LONGEST_TEXT = 200


def is_on() -> bool:
    """Whether any tracing could have spans open."""
    return "mlflow" in sys.modules or "opentelemetry.trace" in sys.modules


def annotate(attributes: Mapping[str, Any]) -> None:
    """Set attributes, under ``dynscale.``, on the span that is open here; without one, do nothing."""
    span = _open_span()
    if span is not None:
        span.set_attributes({f"dynscale.{name}": _plain(value) for name, value in attributes.items()})


def _open_span() -> Any:
    # MLflow keeps its spans apart from other OpenTelemetry ones unless told otherwise.
    active = getattr(sys.modules.get("mlflow"), "get_current_active_span", None)
    span = active() if active is not None else None
    if span is None and "opentelemetry.trace" in sys.modules:
        span = sys.modules["opentelemetry.trace"].get_current_span()
        span = span if span.is_recording() else None
    return span


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, (bool, int, float)):
        return "" if value is None else value
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return str(value)[:_LONGEST_TEXT]


class SpanMark(BaseCallback):
    """Marks the span of one sample: the first module call made in it.

    DSPy tells callbacks in the order they are listed, the tracer's own among them. So the mark made at the start comes
    after the tracer in the list, when the span is open already, and the one made at the end before it, while it still
    is.

    Args:
        started: Gives the attributes at the start, or None if this mark is made at the end.
        ended: Gives them at the end, from the module's outputs and its exception.
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
        """The first call is the sample's."""
        if self._call is None:
            self._call = call_id
            if self._started is not None:
                annotate(self._started())

    def on_module_end(self, call_id: str, outputs: Any, exception: BaseException | None = None) -> None:  # type: ignore[override]  # cancellation is one too
        """The sample's own call is over."""
        if call_id == self._call and self._ended is not None:
            annotate(self._ended(outputs, exception))
