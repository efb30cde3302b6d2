"""The gallery's examples: every chart with the question that it answers and its one call.

The page is made of this table (see `gallery`), and so are its tests: there is no other list of
charts. A call is Python that ends with the chart; it is run with `vl` and with `run`, the
recorded run of that name.
"""

from __future__ import annotations

from dataclasses import dataclass
from textwrap import dedent


@dataclass(frozen=True)
class Example:
    """A chart as a reader meets it.

    Attributes
    ----------
    chart : str
        Its name under `vidlab.charts`: "latency.percentiles".
    question : str
        What it answers.
    run : str
        What it is drawn from: one of `vl.datasets`, or the folder of a run.
    call : str
        What draws it.
    """

    chart: str
    question: str
    run: str
    call: str

    @property
    def code(self) -> str:
        """The whole snippet, from the run to the chart."""
        return f'run = vl.datasets.load("{self.run}")\n{dedent(self.call).strip()}\n'

    @property
    def file(self) -> str:
        """The name of its picture, without a folder."""
        return f"{self.chart.replace('.', '-')}.png"


FRAMES = (
    Example(
        "latency.late",
        "Which streams had late frames, and how many?",
        "everything",
        """
        frames, streams = run.scan("frames"), run.scan("streams")
        late = vl.analysis.latency.late(frames, streams, deadline_ms=200)
        vl.charts.latency.late(vl.analysis.latency.late_summary(late))
        """,
    ),
    Example(
        "latency.distribution",
        "How are end-to-end latencies distributed, and which share meets the deadline?",
        "everything",
        """
        shares = [percent / 100 for percent in range(101)]
        steps = vl.analysis.latency.end_to_end(run.scan("frames"), by="codec", quantiles=shares)
        vl.charts.latency.distribution(steps, deadline_ms=200)
        """,
    ),
    Example(
        "latency.percentiles",
        "How long does each stage take, at the median and in the tail, by codec?",
        "everything",
        """
        steps = ["decode", "filter", "upload", "motion", "encode"]
        spans = run.scan("spans").filter(pl.col("stage").is_in(steps))
        vl.charts.latency.percentiles(vl.analysis.latency.percentiles(spans))
        """,
    ),
    Example(
        "cube.percentiles",
        "The same for any slice and quantile: this one recomputes itself in an exported page.",
        "everything",
        """
        vl.charts.cube.percentiles(run.cube(), deadline_ms=200)
        """,
    ),
    Example(
        "latency.heatmap",
        "When was it slow?",
        "everything",
        """
        frames = vl.analysis.latency.as_spans(run.scan("frames"))
        vl.charts.latency.heatmap(vl.analysis.latency.over_time(frames))
        """,
    ),
    Example(
        "latency.slowest",
        "Which frames took longest?",
        "everything",
        """
        vl.charts.latency.slowest(vl.analysis.latency.slowest(run.scan("frames")))
        """,
    ),
    Example(
        "closure.by_stream",
        "Where does an average frame's time go: work, queues, reordering, the encoder's lag?",
        "everything",
        """
        closed = vl.analysis.closure.closure(run.scan("frames"), run.scan("spans"))
        vl.charts.closure.by_stream(vl.analysis.closure.means(closed))
        """,
    ),
    Example(
        "closure.frames",
        "And where did the time of these very frames go?",
        "everything",
        """
        closed = vl.analysis.closure.closure(run.scan("frames"), run.scan("spans"))
        vl.charts.closure.frames(closed.top_k(15, by="end_to_end_ns"))
        """,
    ),
    Example(
        "closure.ranking",
        "What did late frames spend more time on than punctual ones, worst first?",
        "everything",
        """
        late = vl.analysis.latency.late(run.scan("frames"), run.scan("streams"), deadline_ms=200)
        causes = vl.analysis.closure.by_cause(late, run.scan("spans"))
        vl.charts.closure.ranking(vl.analysis.closure.ranking(causes))
        """,
    ),
    Example(
        "closure.by_cause",
        "The same, one bar a stream.",
        "everything",
        """
        late = vl.analysis.latency.late(run.scan("frames"), run.scan("streams"), deadline_ms=200)
        vl.charts.closure.by_cause(vl.analysis.closure.by_cause(late, run.scan("spans")))
        """,
    ),
    Example(
        "losses.fates",
        "Which streams lost frames, and how?",
        "everything",
        """
        vl.charts.losses.fates(vl.analysis.losses.fates(run.scan("frames")))
        """,
    ),
    Example(
        "losses.by_stage",
        "Where were they lost?",
        "everything",
        """
        vl.charts.losses.by_stage(vl.analysis.losses.by_stage(run.scan("frames")))
        """,
    ),
)

STREAMS = (
    Example(
        "queues.by_queue",
        "Which queues are full, and so hold up the stage before them?",
        "everything",
        """
        found = vl.analysis.queues.by_queue(run.scan("queue_depths"), run.scan("spans"))
        vl.charts.queues.by_queue(found)
        """,
    ),
    Example(
        "queues.levels",
        "When was which queue full?",
        "everything",
        """
        vl.charts.queues.levels(vl.analysis.queues.levels(run.scan("queue_depths")))
        """,
    ),
    Example(
        "throughput.by_stream",
        "Does each stream keep its nominal rate?",
        "everything",
        """
        rates = vl.analysis.throughput.by_stream(run.scan("frames"), run.scan("streams"))
        vl.charts.throughput.by_stream(rates)
        """,
    ),
    Example(
        "throughput.over_time",
        "When did a stream fall behind?",
        "everything",
        """
        frames, streams = run.scan("frames"), run.scan("streams")
        rates = vl.analysis.throughput.over_time(frames, streams, window_s=0.5)
        vl.charts.throughput.over_time(rates)
        """,
    ),
    Example(
        "stutter.by_stream",
        "How evenly do frames come out?",
        "everything",
        """
        found = vl.analysis.stutter.by_stream(run.scan("frames"), run.scan("streams"))
        vl.charts.stutter.by_stream(found)
        """,
    ),
    Example(
        "stutter.freezes",
        "When did a viewer see a still picture, and for how long?",
        "everything",
        """
        vl.charts.stutter.freezes(vl.analysis.stutter.freezes(run.scan("frames")))
        """,
    ),
    Example(
        "startup.first_frames",
        "How long until the first frame of each stream?",
        "everything",
        """
        found = vl.analysis.startup.first_frames(run.scan("frames"), run.scan("streams"))
        vl.charts.startup.first_frames(found)
        """,
    ),
    Example(
        "sampling.timeline",
        "Of a sampled run: which share of frames was recorded, when, and why?",
        "docs/runs/sampled",
        """
        frames, kept = run.scan("frames"), run.scan("kept_frames")
        ended_ns = run.manifest.ended.monotonic_ns
        decisions = vl.analysis.sampling.decisions(run.scan("sampling_decisions"), ended_ns)
        vl.charts.sampling.timeline(decisions, vl.analysis.sampling.over_time(frames, kept))
        """,
    ),
    Example(
        "sampling.kept",
        "Which frames were recorded by their turn, and which for what became of them?",
        "docs/runs/sampled",
        """
        kept = vl.analysis.sampling.kept(run.scan("frames"), run.scan("kept_frames"))
        vl.charts.sampling.kept(kept)
        """,
    ),
    Example(
        "labelcosts.costs",
        "What does each label key cost in values, rows and bytes?",
        "everything",
        """
        vl.charts.labelcosts.costs(vl.analysis.labelcosts.costs(run))
        """,
    ),
)

MEMORY = (
    Example(
        "bill.stack",
        "What is the device's memory used for, and how much of it does nobody explain?",
        "gpu_memory",
        """
        bill = vl.analysis.bill.bill(run.scan("gpu_samples"), run.scan("allocations"))
        vl.charts.bill.stack(bill, alarms=vl.analysis.bill.alarms(bill))
        """,
    ),
    Example(
        "memory.in_use",
        "Who uses the memory that pools gave, over time?",
        "gpu_memory",
        """
        used = vl.analysis.memory.in_use(run.scan("allocations"), by=["stream_id", "codec"])
        vl.charts.memory.in_use(used, peak=vl.analysis.memory.peak(run.scan("allocations")))
        """,
    ),
    Example(
        "memory.hit_rate",
        "How often does a pool serve an allocation without asking the driver?",
        "gpu_memory",
        """
        vl.charts.memory.hit_rate(vl.analysis.memory.hit_rate(run.scan("allocations")))
        """,
    ),
    Example(
        "fragmentation.over_time",
        "How cut up is the pools' free memory?",
        "gpu_memory",
        """
        found = vl.analysis.fragmentation.over_time(run.scan("allocations"))
        vl.charts.fragmentation.over_time(found)
        """,
    ),
    Example(
        "leaks.verdicts",
        "Which line of code leaks, how fast, and what holds what it took?",
        "gpu_memory",
        """
        tables = [run.scan(name) for name in ("allocations", "frames", "stacks", "holders")]
        vl.charts.leaks.verdicts(vl.analysis.leaks.verdicts(*tables))
        """,
    ),
    Example(
        "leaks.growth",
        "How does what a site holds grow with the frames?",
        "gpu_memory",
        """
        from vidlab.analysis import growthcurves

        tables = [run.scan(name) for name in ("allocations", "frames", "stacks")]
        vl.charts.leaks.growth(growthcurves.by_site(*tables))
        """,
    ),
    Example(
        "livesets.diff",
        "What was taken between two moments and is still there?",
        "gpu_memory",
        """
        allocations = run.scan("allocations").collect()
        first_ns, last_ns = allocations["t_ns"].min(), allocations["t_ns"].max()
        found = vl.analysis.livesets.diff(
            allocations, first_ns, last_ns, run.scan("stacks"), run.scan("frames"), seconds=1
        )
        vl.charts.livesets.diff(found, seconds=1)
        """,
    ),
    Example(
        "flame.flame",
        "From the device down to the line: who holds memory at a moment?",
        "gpu_memory",
        """
        tree = vl.analysis.flame.memory_over_time(run.scan("allocations"), run.scan("stacks"))
        vl.charts.flame.flame(tree)
        """,
    ),
    Example(
        "timeline.allocations",
        "Do frames come late when a pool has to ask the driver?",
        "gpu_memory",
        """
        allocations = run.scan("allocations").collect()
        frames = vl.analysis.latency.as_spans(run.scan("frames")).collect()
        in_use = vl.analysis.memory.in_use(allocations, by="codec")
        calls = allocations.filter(allocations["level"] == "driver")
        vl.charts.timeline.allocations(frames, in_use, calls)
        """,
    ),
)

KERNEL = (
    Example(
        "offcpu.by_stage",
        "What did each stage's threads wait for while they were not on a CPU?",
        "kernel_events",
        """
        waits = vl.analysis.offcpu.by_stage(run.scan("kernel_offcpu"), run.scan("spans"))
        inside = waits.filter(waits["stage"] != vl.analysis.offcpu.OUTSIDE)
        vl.charts.offcpu.by_stage(inside)
        """,
    ),
    Example(
        "offcpu.over_time",
        "How many threads were off the CPU, when, and why?",
        "kernel_events",
        """
        vl.charts.offcpu.over_time(vl.analysis.offcpu.over_time(run.scan("kernel_offcpu")))
        """,
    ),
    Example(
        "decodetimes.by_stream",
        "How much of decoding is FFmpeg's own time?",
        "kernel_events",
        """
        found = vl.analysis.decodetimes.by_stream(run.scan("kernel_libav"), run.scan("spans"))
        vl.charts.decodetimes.by_stream(found)
        """,
    ),
    Example(
        "metrics.distribution",
        "How long did calls take, counted in the kernel without an event each?",
        "kernel_events",
        """
        counted = run.scan("kernel_metrics")
        vl.charts.metrics.distribution(
            vl.analysis.metrics.distribution(counted, "ebpf_video_decode_us"),
            vl.analysis.metrics.percentiles(counted, quantiles=[0.5, 0.99]),
        )
        """,
    ),
    Example(
        "pointers.summary",
        "Which device memory was taken past CuPy?",
        "kernel_events",
        """
        memory, allocations = run.scan("kernel_cuda_memory"), run.scan("allocations")
        seen = vl.analysis.pointers.seen_by(memory, allocations)
        vl.charts.pointers.summary(vl.analysis.pointers.summary(seen))
        """,
    ),
    Example(
        "memory_graph.copies",
        "What is copied between which blocks of device memory?",
        "kernel_events",
        """
        graph = vl.analysis.memory_graph.MemoryGraph()
        graph.add(run.scan("kernel_cuda_memory"), run.scan("kernel_cuda_copies"), end=True)
        vl.charts.memory_graph.copies(graph.nodes(), graph.edges())
        """,
    ),
    Example(
        "connections.over_time",
        "How did the cameras' TCP connections fare?",
        "kernel_events",
        """
        found = vl.analysis.connections.connections(run.scan("kernel_tcp"), run.scan("spans"))
        vl.charts.connections.over_time(found)
        """,
    ),
)

RUNTIME = (
    Example(
        "health.verdicts",
        "What is wrong with the runtime, and how far beyond its threshold?",
        "runtime_health",
        """
        vl.charts.health.verdicts(vl.analysis.health.verdicts(run))
        """,
    ),
    Example(
        "health.timeline",
        "What did the runtime do while frames were slow?",
        "everything",
        """
        collections, waits = run.scan("gc_pauses").collect(), run.scan("thread_waits")
        late = vl.analysis.wakeups.over_time(run.scan("wakeups"), collections)
        threads = vl.analysis.threadnames.named(
            vl.analysis.scheduling.over_time(waits),
            vl.analysis.threadnames.known(run.scan("threads")),
        )
        vl.charts.health.timeline(
            vl.analysis.latency.over_time(vl.analysis.latency.as_spans(run.scan("frames"))),
            collections,
            late,
            threads,
            vl.analysis.loops.over_time(run.scan("loop_delays")),
        )
        """,
    ),
    Example(
        "pauses.timeline",
        "Were frames slow while the garbage collector ran?",
        "everything",
        """
        frames = vl.analysis.latency.as_spans(run.scan("frames"))
        cells = vl.analysis.latency.over_time(frames)
        vl.charts.pauses.timeline(run.scan("gc_pauses").collect(), cells)
        """,
    ),
    Example(
        "pauses.silences",
        "When did the whole process stand still, and what stopped it?",
        "everything",
        """
        quiet = vl.analysis.silences.silences(run.scan("spans"), run.scan("gc_pauses"))
        vl.charts.pauses.silences(vl.analysis.silences.episodes(quiet))
        """,
    ),
    Example(
        "scheduling.by_thread",
        "How much did each thread run, and how long did it wait for a CPU?",
        "everything",
        """
        threads = vl.analysis.threads.by_thread(run.scan("threads"), run.scan("thread_waits"))
        vl.charts.scheduling.by_thread(threads)
        """,
    ),
    Example(
        "scheduling.over_time",
        "When did threads wait for a CPU?",
        "everything",
        """
        threads = vl.analysis.threadnames.named(
            vl.analysis.scheduling.over_time(run.scan("thread_waits")),
            vl.analysis.threadnames.known(run.scan("threads")),
        )
        vl.charts.scheduling.over_time(threads)
        """,
    ),
    Example(
        "accumulation.over_time",
        "Which cache, queue or context variable grows without end?",
        "runtime_health",
        """
        held = vl.analysis.accumulation.holders(run.scan("objects")).head(8)
        looks = vl.analysis.accumulation.over_time(run.scan("objects"), held["name"].to_list())
        vl.charts.accumulation.over_time(looks, held)
        """,
    ),
    Example(
        "tasks.lives",
        "Which asyncio tasks never come any further?",
        "runtime_health",
        """
        vl.charts.tasks.lives(vl.analysis.threads.tasks(run.scan("tasks")))
        """,
    ),
    Example(
        "trends.over_time",
        "How do the process's memory, faults and pools go?",
        "everything",
        """
        names = ["process.memory.usage", "process.context_switches", "process.thread.count"]
        found = vl.analysis.trends.over_time(run.scan("runtime_metrics"), names)
        vl.charts.trends.over_time(found)
        """,
    ),
)

PROFILES = (
    Example(
        "cpu.by_label",
        "How much CPU did each stream take, exactly, and what would samples have said?",
        "profiles",
        """
        found = vl.analysis.cpu.by_label(
            run.scan("spans"), run.scan("profile_samples"), by=["stream_id", "codec"]
        )
        vl.charts.cpu.by_label(found)
        """,
    ),
    Example(
        "profiles.flame",
        "Which calls took the CPU, and for whom?",
        "profiles",
        """
        tables = [run.scan(name) for name in ("profile_samples", "stacks", "spans")]
        profile = vl.analysis.profiles.of_cpu(*tables, by=["stream_id", "codec"])
        vl.charts.profiles.flame(vl.analysis.profiles.flame(profile, ["stream_id", "codec"]))
        """,
    ),
    Example(
        "profiles.difference",
        "What do the slowest calls of a stage do that the others don't?",
        "profiles",
        """
        spans, samples = run.scan("spans"), run.scan("profile_samples")
        slow, rest = vl.analysis.profiles.slow_and_rest(spans, "resize")
        both = [
            vl.analysis.profiles.of_spans(samples, run.scan("stacks"), spans, chosen)
            for chosen in (rest, slow)
        ]
        vl.charts.profiles.difference(
            vl.analysis.profiles.difference(*both), before="the others", after="the slowest"
        )
        """,
    ),
)

BLAME = (
    Example(
        "blame.ranking",
        "What made frames late, and how much of the lateness is each cause to blame for?",
        "everything",
        """
        late = vl.analysis.latency.late(run.scan("frames"), run.scan("streams"), deadline_ms=200)
        blamed = vl.analysis.blame.per_frame(run, late)
        vl.charts.blame.ranking(vl.analysis.blame.ranked(blamed))
        """,
    ),
    Example(
        "blame.by_stream",
        "Which causes made which stream late?",
        "everything",
        """
        late = vl.analysis.latency.late(run.scan("frames"), run.scan("streams"), deadline_ms=200)
        blamed = vl.analysis.blame.per_frame(run, late)
        vl.charts.blame.by_stream(vl.analysis.blame.ranked(blamed))
        """,
    ),
    Example(
        "waterfall.frame",
        "Where did one frame's time go, part by part?",
        "everything",
        """
        slowest = vl.analysis.latency.slowest(run.scan("frames"), n=1)["frame"][0]
        vl.charts.waterfall.frame(vl.analysis.blame.waterfall(run, slowest))
        """,
    ),
)

#: All of the gallery, by what it is about.
GALLERY: dict[str, tuple[Example, ...]] = {
    "Blame for late frames": BLAME,
    "Frames": FRAMES,
    "Streams and queues": STREAMS,
    "GPU memory": MEMORY,
    "Kernel and driver events": KERNEL,
    "Runtime health": RUNTIME,
    "Profiles": PROFILES,
}
