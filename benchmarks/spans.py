"""The cost of a recorded stage, beside an OpenTelemetry SDK span.

The peer is a `BatchSpanProcessor` with an exporter that throws its batches away
and four attributes a span. Ours is a stage with a frame's identity and labels,
while a real recording runs. Both are process CPU: their background threads count.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

import vidlab as vl
from vidlab import labelsets, schema
from vidlab.capture.frames.refs import FrameRef, frame_ref

from .figure import Figure, median_cpu_ns, memory_mb, report

ATTRIBUTES = {"stream_id": "cam-7", "codec": "h264", "gpu": 0, "frame": 1234}


class Discard(SpanExporter):
    """The cheapest exporter there can be."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        return SpanExportResult.SUCCESS


def otel_spans(tracer: trace.Tracer) -> Callable[[int], None]:
    def spans(count: int) -> None:
        start = tracer.start_as_current_span
        for _ in range(count):
            with start("infer", attributes=ATTRIBUTES):
                pass

    return spans


def stages(frame: FrameRef) -> Callable[[int], None]:
    def spans(count: int) -> None:
        stage = vl.stage
        for _ in range(count):
            with stage("infer", frame):
                pass

    return spans


def a_frame() -> FrameRef:
    born_with = labelsets.intern({"stream_id": "cam-7", "codec": "h264", "gpu": 0})
    return frame_ref(frame=(1 << 52) | 1234, seq=1234, pts=0, dts=0, labels=born_with, t_demux_ns=0)


def recorded_cost(folder: Path) -> list[Figure]:
    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(Discard()))
    peer = otel_spans(provider.get_tracer("bench"))
    ours = {}
    for clocks in ("auto", "always"):
        with vl.record(folder / clocks, engines=[vl.Frames(clocks=clocks)]):
            ours[clocks] = median_cpu_ns({"ours": stages(a_frame()), "peer": peer}, 20_000)
    provider.shutdown()
    return [
        Figure(
            "a recorded stage / an OpenTelemetry SDK span",
            ours["auto"]["ours"],
            "ns",
            ours["auto"]["peer"],
            1 / 30,
        ),
        Figure(
            "the same with CPU and run-queue clocks always read",
            ours["always"]["ours"],
            "ns",
            ours["always"]["peer"],
        ),
    ]


def off_cost() -> Figure:
    cpu = median_cpu_ns(
        {"ours": stages(a_frame()), "peer": otel_spans(trace.NoOpTracer())}, 200_000
    )
    return Figure("a stage, not recording / a no-op span", cpu["ours"], "ns", cpu["peer"], 1 / 20)


def growth(folder: Path) -> Figure:
    """Record 1e7 spans and return by how much the process grew, in MB."""
    spans = stages(a_frame())
    with vl.record(folder / "growth", engines=[vl.Frames()]):
        spans(100_000)
        before = memory_mb("VmRSS")
        spans(10_000_000)
        after = memory_mb("VmHWM")
    return Figure("memory growth over 1e7 spans", after - before, "MB", None, 64)


def share_of_a_core(folder: Path) -> Figure:
    """Record 48,000 spans a second for five seconds and return the CPU used, in %."""
    frame, rate, seconds, ticks = a_frame(), 48_000, 5, 100
    with vl.record(folder / "share", engines=[vl.Frames()]):
        spans = stages(frame)
        spans(1000)
        begin, cpu = time.perf_counter(), time.process_time()
        for tick in range(seconds * ticks):
            spans(rate // ticks)
            time.sleep(max(0.0, begin + (tick + 1) / ticks - time.perf_counter()))
        used = (time.process_time() - cpu) / (time.perf_counter() - begin)
    return Figure("48,000 spans/s: share of a core", 100 * used, "%", None, 4)


def main() -> None:
    # The memory of a run's end (compaction) is a figure of its own: not here.
    with tempfile.TemporaryDirectory() as folder:
        figures = [off_cost(), growth(Path(folder)), *recorded_cost(Path(folder))]
        figures.append(share_of_a_core(Path(folder)))
    record = schema.TABLES["spans"].record
    assert record is not None
    figures.append(Figure("memory per span", record.size, "bytes", None, 64))
    report(figures)


if __name__ == "__main__":
    main()
