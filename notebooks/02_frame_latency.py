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
# # Frame latency: where did a late frame's time go?
#
# This notebook follows the frames of a recorded run: which of them were late, what they waited for,
# and what the slowest one went through, span by span. `make demo` records the run that it reads by
# default; name your own in the next cell.

# %% tags=["parameters"]
run = "../runs/demo"
stream_id = None
codec = None
gpu = None
deadline_ms = None

# %%
import polars as pl

import vidlab as vl
from vidlab.analysis import closure, latency
from vidlab.workbench import renderer
from vidlab.workbench.slices import Slice
from vidlab.workbench.tables import Table

renderer.enable()
recorded = vl.open_run(run)
part = Slice(recorded, stream_id, codec, gpu, deadline_ms)
frames, spans = part.scan("frames"), recorded.scan("spans")
lost = part.lost("frames", "spans")

# %% [markdown]
# ## Which frames were late?
#
# A frame's end-to-end latency lasts from the read of its packet to the moment at which a sink had
# consumed it. It is late beyond the deadline: `deadline_ms`, or three nominal frame intervals.

# %%
late_frames = part.late_frames()
Table(latency.late_summary(late_frames), "Late frames by stream")

# %%
shares = [percent / 100 for percent in range(101)]
steps = latency.end_to_end(frames, by="codec", quantiles=shares)
vl.charts.latency.distribution(steps, deadline_ms=part.deadline, lost=lost)

# %%
vl.charts.latency.heatmap(latency.over_time(latency.as_spans(frames)), lost=lost)

# %% [markdown]
# ## Where did the time go?
#
# The latency closes: work, waits in queues, the wait for reordering and the encoder's lag add up to
# it, up to a residual that no span covers. Of all frames, the residual should be next to nothing.

# %%
closed = closure.closure(frames, spans)
vl.charts.closure.by_stream(closure.means(closed), lost=lost)

# %%
residual = pl.col("residual_ns").abs()
within = closed.select(frames=pl.len(), share_within_100_us=(residual <= 100_000).mean())
Table(within, "How well the latency closes")

# %% [markdown]
# ## What made the late ones late?
#
# Late frames against punctual ones of the same stream: the difference is what to look at.

# %%
causes = closure.by_cause(late_frames, spans)
vl.charts.closure.ranking(closure.ranking(causes), lost=lost)

# %%
numbers = ("late_frames", "typical_ns", "excess_per_frame_ns", "share", "share_of_group")
ranked = closure.ranking(causes, n=20).select("stream_id", "codec", "stage", "kind", *numbers)
Table(ranked, "What late frames spent beyond the typical: one of them, and all together")

# %% [markdown]
# ## The slowest frames

# %%
vl.charts.latency.slowest(latency.slowest(frames), lost=lost)

# %%
vl.charts.closure.frames(closed.top_k(20, by="end_to_end_ns"), lost=lost)

# %% [markdown]
# And the slowest of all, span by span. A span with a parent is part of the one around it.

# %%
slowest = closed.top_k(1, by="end_to_end_ns").select("frame", "t_demux_ns")
way = spans.join(slowest.lazy(), on="frame").sort("t_ns")
since = (pl.col("t_ns") - pl.col("t_demux_ns")).alias("since_read_ns")
columns = (since, "duration_ns", "stage", "kind", "status", "cpu_ns", "tid")
Table(way.select(columns).collect(), "The way of the slowest frame")
