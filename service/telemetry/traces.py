"""Traces by OpenTelemetry: a span a call, one a job, and one in the job's own process, joined by W3C ``traceparent``.

Needs the extra ``[traces]`` and a place to send spans to: ``OTEL_TRACES_EXPORTER`` names exporters that are installed
(``console``, ``otlp``, ...), and the setting ``trace_file`` a file that gets a span a line. Without both, nothing here
does anything.
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
    """The tracer of this process, once it is set up."""

    tracer: Any = None
    provider: Any = None
    file: TextIO | None = None


def set_up_traces(trace_file: str = "") -> None:
    """Begin to trace, if there is somewhere to send spans to.

    Args:
        trace_file: spans are appended to it as JSON Lines; empty for none.

    Raises:
        InvalidInput: a trace is asked for, and OpenTelemetry, or an exporter that is named, is not installed.
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
            raise InvalidInput("OTEL_TRACES_EXPORTER", name, "exporters whose packages are installed")
        provider.add_span_processor(BatchSpanProcessor(found[0].load()()))
    _State.provider, _State.tracer = provider, trace.get_tracer("micromodels", tracer_provider=provider)


def stop_traces() -> None:
    """Send what waits; nothing is traced from here on."""
    if _State.provider is not None:
        _State.provider.shutdown()
    if _State.file is not None:
        _State.file.close()
    _State.provider = _State.tracer = _State.file = None


@contextmanager
def span(name: str, parent: str = "", **attributes: str) -> Iterator[None]:
    """Trace a block.

    Args:
        name: what it does.
        parent: ``traceparent`` of what caused it, elsewhere; empty for what is running here.
        attributes: ids and words of ours, no patient data.
    """
    if _State.tracer is None:
        yield
        return
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    context = TraceContextTextMapPropagator().extract({_PARENT: parent}) if parent else None
    with _State.tracer.start_as_current_span(name, context=context, attributes=attributes, record_exception=False):
        yield


def traceparent() -> str:
    """What makes a span elsewhere a child of the running one; empty where nothing is traced."""
    if _State.tracer is None:
        return ""
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    carrier: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(carrier)
    return carrier.get(_PARENT, "")


def trace_id() -> str:
    """Id of the running trace, 32 hex digits; empty where nothing is traced."""
    return traceparent()[3:35]
