# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#       jupytext_version: 1.19.6
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Which frames were late, and why?

# %% tags=["parameters"]
run = "everything"
stream_id = None
codec = None
gpu = None
deadline_ms = None

# %%
import polars as pl

import vidlab as vl
from vidlab.analysis import (
    closure,
    latency,
    losses,
    pauses,
    queues,
    silences,
    startup,
    stutter,
    throughput,
)
from vidlab.workbench import renderer, tables
from vidlab.workbench.explain.section import ExplainSection
from vidlab.workbench.health_section import HealthSection
from vidlab.workbench.kernel_section import KernelSection
from vidlab.workbench.memory_section import MemorySection
from vidlab.workbench.profile_section import ProfileSection
from vidlab.workbench.sampling_section import SamplingSection
from vidlab.workbench.slices import Slice
from vidlab.workbench.verdict import verdict

renderer.enable()
part = Slice(vl.datasets.load(run), stream_id, codec, gpu, deadline_ms)
frames, spans, streams = part.scan("frames"), part.scan("spans"), part.scan("streams")
kept = part.scan("kept_frames")
verdict(part)

# %% [markdown]
# ## How long does it take?
#
# Choose a stream, a codec, a GPU, and a quantile: this page computes the percentiles anew, by
# itself. *End to end* is a frame's whole way, from the read of its packet to the moment at which
# a sink had consumed it. A name with a dot is a wait that belongs to a stage, not work in it.

# %%
lost = part.lost("spans", "frames")
vl.charts.cube.percentiles(
    part.run.cube(),
    stream_id=stream_id,
    codec=codec,
    gpu=gpu,
    deadline_ms=part.deadline,
    lost=lost,
)

# %% [markdown]
# ## Who was late?

# %%
late_frames = part.late_frames()
late = latency.late_summary(late_frames)
vl.charts.latency.late(late, lost=part.lost("frames"))

# %% [markdown]
# ## Why were they late?
#
# A cause is blamed for the time that a late frame spent on it beyond what punctual frames of its
# stream spend; each moment is blamed once.

# %%
why = ExplainSection(part)
why.headline()

# %%
why.by_stream()

# %%
why.ranking()

# %% [markdown]
# ### The latest frames

# %%
why.waterfalls()

# %%
why.table()

# %% [markdown]
# ## Where does a frame's time go?
#
# A frame's end-to-end latency is work, waits in queues, the wait of a decoder for frames that are
# shown earlier (reordering), the wait of an encoder for frames to come, and a rest that no span
# covers.

# %%
closed = closure.closure(frames, part.run.scan("spans"))
vl.charts.closure.by_stream(closure.means(closed), lost=lost)

# %%
vl.charts.closure.frames(closed.top_k(20, by="end_to_end_ns"), lost=lost)

# %% [markdown]
# ## When was it slow?
#
# While the garbage collector runs, no Python code of its process does.

# %%
over_time = latency.over_time(latency.as_spans(frames))
gc_pauses = part.scan("gc_pauses").collect()
vl.charts.pauses.timeline(gc_pauses, over_time, lost=part.lost("gc_pauses", "frames"))

# %%
tables.Table(pauses.by_generation(gc_pauses), "Garbage collections by generation")

# %%
quiet = silences.silences(part.run.scan("spans"), part.run.scan("gc_pauses"))
vl.charts.pauses.silences(silences.episodes(quiet), start_ns=part.start_ns, lost=lost)

# %% [markdown]
# ## Which frames were lost?

# %%
vl.charts.losses.fates(losses.fates(frames), lost=part.lost("frames"))

# %%
vl.charts.losses.by_stage(losses.by_stage(frames), lost=part.lost("frames"))

# %%
columns = ("stream_id", "codec", "first_seq", "last_seq", "lost_frames", "fate", "lost_at")
gops = losses.gops(frames, kept).select(columns)
tables.Table(gops, "Lost key frames, and how many frames each took along")

# %% [markdown]
# ## Which queues were full?
#
# A queue that is full holds up what fills it: the stage after it is too slow, or does not take.

# %%
depths = part.scan("queue_depths")
vl.charts.queues.by_queue(queues.by_queue(depths, spans), lost=part.lost("queue_depths"))

# %%
levels = queues.levels(depths)
vl.charts.queues.levels(levels, start_ns=part.start_ns, lost=part.lost("queue_depths"))

# %% [markdown]
# ## Do streams keep their rate?

# %%
vl.charts.throughput.by_stream(throughput.by_stream(frames, streams), lost=part.lost("frames"))

# %%
rates = throughput.over_time(frames, streams, window_s=part.window_s(bins=100))
vl.charts.throughput.over_time(rates, start_ns=part.start_ns, lost=part.lost("frames"))

# %%
vl.charts.stutter.by_stream(stutter.by_stream(frames, streams, kept), lost=part.lost("frames"))

# %%
freezes = stutter.freezes(frames, kept)
vl.charts.stutter.freezes(freezes, start_ns=part.start_ns, lost=part.lost("frames"))

# %%
vl.charts.startup.first_frames(startup.first_frames(frames, streams), lost=part.lost("frames"))

# %% [markdown]
# ## What holds the GPU memory?

# %%
memory = MemorySection(part)
memory.headline()

# %%
memory.leaks()

# %%
memory.growth()

# %%
memory.bill()

# %%
memory.in_use()

# %%
memory.lived_on()

# %%
memory.flame()

# %%
memory.flame("gpu_time")

# %%
memory.fragmentation()

# %%
memory.timeline()

# %%
kernel = KernelSection(part)  # without kernel events there is no such section
kernel.section()

# %%
kernel.offcpu()

# %%
kernel.offcpu_over_time()

# %%
kernel.wakeups()

# %%
kernel.decode()

# %%
kernel.decode_counted()

# %%
kernel.counters()

# %%
kernel.memory()

# %%
kernel.copies()

# %%
kernel.connections()

# %%
kernel.by_connection()

# %%
kernel.probes()

# %%
profile = ProfileSection(part)  # nor one on profiles
profile.section()

# %%
profile.by_label()

# %%
profile.by_stage()

# %%
profile.by_thread()

# %%
profile.flame()

# %%
profile.difference()

# %%
profile.slow()

# %%
profile.slowest()

# %%
profile.memory()

# %%
profile.pushes()

# %%
health = HealthSection(part)  # nor one on the runtime
health.section()

# %%
health.told()

# %%
health.beyond()

# %%
health.timeline()

# %%
health.scheduling()

# %%
health.wakeups()

# %%
health.threads()

# %%
health.tasks()

# %%
health.holders()

# %%
health.metrics()

# %%
record = SamplingSection(part)  # nor one on what was recorded, where that is all
record.section()

# %%
record.timeline()

# %%
record.kept()

# %% [markdown]
# ## Exact percentiles

# %%
exact = latency.percentiles(spans)
vl.charts.latency.percentiles(exact, lost=part.lost("spans"))

# %%
tables.Table(exact, "Exact nearest-rank percentiles by stage and codec")

# %% [markdown]
# ## What else was noticed

# %%
kinds = part.scan("findings").group_by("kind", "severity")
found = kinds.agg(pl.len().alias("count"), pl.col("message").first()).collect()
tables.Table(found.sort("kind", "severity"), "Findings, and one of each kind")

# %%
tables.facts(part.run)
