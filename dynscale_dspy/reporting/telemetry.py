"""OpenTelemetry spans for DSPy programs. Needs the extra ``otel``."""

from __future__ import annotations

from typing import Any

from dspy.utils.callback import BaseCallback

try:
    from opentelemetry import context, trace
    from opentelemetry.trace import Span, SpanKind, Status, StatusCode, TracerProvider
except ImportError as error:
    raise ImportError("OpenTelemetry spans need its API: pip install 'dynscale-dspy[otel]'") from error


_NEAR = 256
"""How many of the latest entries in a language model's history are searched for a request's usage."""
_USAGE = {"input_tokens": ("prompt_tokens", "input_tokens"), "output_tokens": ("completion_tokens", "output_tokens")}


class OpenTelemetryCallback(BaseCallback):
    """A DSPy callback that opens a span for each module, language-model and tool call.

    Spans follow the GenAI semantic conventions. Those of language-model requests are named ``chat MODEL`` and carry
    ``gen_ai.request.*`` and ``gen_ai.usage.*``; those of tools are named ``execute_tool NAME``. Spans of wrapped
    modules carry ``dynscale.*``: samples, rounds, agreement, confidence, and the winning answer, cut off after 200
    characters. Prompts, replies and messages of errors are not recorded.

    Args:
        tracer_provider: Where spans go; the global provider by default.

    Example:
        ```python
        dspy.configure(lm=lm, callbacks=[OpenTelemetryCallback()])
        ```
    """

    def __init__(self, tracer_provider: TracerProvider | None = None) -> None:
        self._tracer = trace.get_tracer("dynscale_dspy", tracer_provider=tracer_provider)
        # Open spans by call: calls may end in another order than they began, or never.
        self._open: dict[str, tuple[Span, Any, Any]] = {}

    # Programs are copied deep with their callbacks. The copies share this object, which holds the open spans.
    def __deepcopy__(self, memo: dict[int, Any]) -> OpenTelemetryCallback:
        return self

    def on_module_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        """Called by DSPy as a module call starts."""
        self._start(call_id, type(instance).__name__, instance, SpanKind.INTERNAL, {})

    def on_module_end(self, call_id: str, outputs: Any, exception: BaseException | None = None) -> None:  # type: ignore[override]  # cancellation is one too
        """Called by DSPy as a module call ends."""
        self._end(call_id, exception)

    def on_tool_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        """Called by DSPy as a tool call starts."""
        name = str(getattr(instance, "name", type(instance).__name__))
        attributes = {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": name}
        self._start(call_id, f"execute_tool {name}", instance, SpanKind.INTERNAL, attributes)

    def on_tool_end(self, call_id: str, outputs: Any, exception: BaseException | None = None) -> None:  # type: ignore[override]
        """Called by DSPy as a tool call ends."""
        self._end(call_id, exception)

    def on_lm_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        """Called by DSPy as a language-model request starts."""
        provider, _, model = str(getattr(instance, "model", "unknown")).rpartition("/")
        settings = {**getattr(instance, "kwargs", {}), **inputs, **(inputs.get("kwargs") or {})}
        attributes: dict[str, Any] = {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": provider or "unknown",
            "gen_ai.request.model": model,
        }
        for name in ("temperature", "max_tokens", "top_p", "seed"):
            if isinstance(settings.get(name), (int, float)):
                attributes[f"gen_ai.request.{name}"] = settings[name]
        self._start(call_id, f"chat {model}", instance, SpanKind.CLIENT, attributes)

    def on_lm_end(self, call_id: str, outputs: Any, exception: BaseException | None = None) -> None:  # type: ignore[override]
        """Called by DSPy as a language-model request ends."""
        span, _, instance = self._open.get(call_id, (None, None, None))
        if span is not None and outputs is not None:
            # DSPy writes the usage only to the model's history, among the entries of other threads.
            entries = list(getattr(instance, "history", ()))[-_NEAR:]
            usage = next((entry.get("usage") or {} for entry in reversed(entries) if entry["outputs"] is outputs), {})
            for name, keys in _USAGE.items():
                count = next((usage[key] for key in keys if usage.get(key)), None)
                if count is not None:
                    span.set_attribute(f"gen_ai.usage.{name}", int(count))
        self._end(call_id, exception)

    def _start(self, call_id: str, name: str, instance: Any, kind: SpanKind, attributes: dict[str, Any]) -> None:
        span = self._tracer.start_span(name, kind=kind, attributes=attributes)
        self._open[call_id] = (span, context.attach(trace.set_span_in_context(span)), instance)

    def _end(self, call_id: str, exception: BaseException | None) -> None:
        span, token, _ = self._open.pop(call_id, (None, None, None))
        if span is None or token is None:
            return
        if exception is not None:
            # The type only: a message may hold what does not belong in a trace.
            span.set_attribute("error.type", type(exception).__qualname__)
            span.set_status(Status(StatusCode.ERROR))
        span.end()
        context.detach(token)
