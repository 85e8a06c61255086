"""OpenTelemetry traces: a span per call, per job and per job process, linked by W3C ``traceparent``.

Needs the extra ``[traces]`` and somewhere to send spans: ``OTEL_TRACES_EXPORTER`` names installed exporters
(``console``, ``otlp``, ...), and the setting ``trace_file`` names a file that gets one span per line. Without either,
tracing is off.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import entry_points
from typing import Any, TextIO

from micromodels.errors import InvalidInput

__all__ = ["set_up_traces", "span", "stop_traces", "trace_id", "traceparent"]

_PARENT = "traceparent"


class _State:
    """The tracer of this process, once set up."""

    tracer: Any = None
    provider: Any = None
    file: TextIO | None = None


def set_up_traces(trace_file: str = "") -> None:
    """Start tracing, if an exporter or a file is configured.

    Args:
        trace_file: file to append spans to, as JSON Lines; empty for none.

    Raises:
        InvalidInput: tracing is configured, but OpenTelemetry or a named exporter is not installed.
    """
    named = [name for name in os.environ.get("OTEL_TRACES_EXPORTER", "").split(",") if name not in ("", "none")]
    if not named and not trace_file:
        return
    try:
        from opentelemetry import trace
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter, SimpleSpanProcessor
    except ModuleNotFoundError:
        raise InvalidInput("trace_file", trace_file, "OpenTelemetry: pip install 'micromodels-video[traces]'") from None
    provider = TracerProvider(resource=Resource.create({"service.name": "micromodels"}))
    if trace_file:
        _State.file = file = open(trace_file, "a", encoding="utf-8", buffering=1)  # noqa: SIM115  # as long as the process
        exporter = ConsoleSpanExporter(out=file, formatter=lambda found: str(found.to_json(indent=None)) + "\n")
        provider.add_span_processor(SimpleSpanProcessor(exporter))
    for name in named:
        found = [point for point in entry_points(group="opentelemetry_traces_exporter") if point.name == name]
        if not found:
            raise InvalidInput("OTEL_TRACES_EXPORTER", name, "installed exporters; install the exporter's package")
        provider.add_span_processor(BatchSpanProcessor(found[0].load()()))
    _State.provider, _State.tracer = provider, trace.get_tracer("micromodels", tracer_provider=provider)


def stop_traces() -> None:
    """Send pending spans and stop tracing."""
    if _State.provider is not None:
        _State.provider.shutdown()
    if _State.file is not None:
        _State.file.close()
    _State.provider = _State.tracer = _State.file = None


@contextmanager
def span(name: str, parent: str = "", **attributes: str) -> Iterator[None]:
    """Trace a block.

    Args:
        name: of the span.
        parent: ``traceparent`` of a span in another process; empty for the current span.
        attributes: ids and fixed words; no patient data.
    """
    if _State.tracer is None:
        yield
        return
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    context = TraceContextTextMapPropagator().extract({_PARENT: parent}) if parent else None
    with _State.tracer.start_as_current_span(name, context=context, attributes=attributes, record_exception=False):
        yield


def traceparent() -> str:
    """The current span as a ``traceparent``, for child spans in other processes; empty without tracing."""
    if _State.tracer is None:
        return ""
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    carrier: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(carrier)
    return carrier.get(_PARENT, "")


def trace_id() -> str:
    """Id of the current trace, 32 hex digits; empty without tracing."""
    return traceparent()[3:35]
