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
# This notebook follows the frames of a recorded run: which of them were late, whether the time of
# all is accounted for, what late ones spent more time on than punctual ones, and what the slowest
# one went through, span by span. In the end it says so in words.
#
# The run is a recording that comes with vidlab: three streams, with five faults planted. Name
# another, or the folder of a run of your own, in the next cell; a stream, a codec or a GPU narrows
# it, and `deadline_ms` says from when on a frame is late.

# %% tags=["parameters"]
run = "everything"
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
from vidlab.workbench.verdict import verdict

renderer.enable()
recorded = vl.datasets.load(run)
part = Slice(recorded, stream_id, codec, gpu, deadline_ms)
frames, spans = part.scan("frames"), recorded.scan("spans")
lost = part.lost("frames", "spans")

# %% [markdown]
# ## Which frames were late?
#
# A frame's end-to-end latency lasts from the read of its packet to the moment at which a sink had
# consumed it. It is late beyond the deadline: `deadline_ms`, or the run's own, or three nominal
# frame intervals. The table has a line a stream, the latest first.

# %%
late_frames = part.late_frames()
Table(latency.late_summary(late_frames), "Late frames by stream")

# %% [markdown]
# The steps show which share of a codec's frames took how long: the further to the right a line
# goes before it reaches the top, the later its worst frames. Below, the same over time: each column
# is a moment, the darker the more frames had that latency.

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
# it, up to a residual that no span covers. A bar is a stream's mean frame. Of all frames, the
# residual should be next to nothing; if it is not, the program does something outside of any stage.

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
# Late frames against punctual ones of the same stream: the difference is what to look at. The
# longest bar is where most could be gained.

# %%
causes = closure.by_cause(late_frames, spans)
vl.charts.closure.ranking(closure.ranking(causes), lost=lost)

# %%
numbers = ("late_frames", "typical_ns", "excess_per_frame_ns", "share", "share_of_group")
ranked = closure.ranking(causes, n=20).select("stream_id", "codec", "stage", "kind", *numbers)
Table(ranked, "What late frames spent beyond the typical: one of them, and all together")

# %% [markdown]
# ## Which frames were slowest?
#
# A point is a frame, at the moment at which it was read; below, the twenty slowest, each made up of
# what it went through.

# %%
vl.charts.latency.slowest(latency.slowest(frames), lost=lost)

# %%
vl.charts.closure.frames(closed.top_k(20, by="end_to_end_ns"), lost=lost)

# %% [markdown]
# And the slowest of all, span by span: what it went through, and when after the read of its packet.

# %%
slowest = closed.top_k(1, by="end_to_end_ns").select("frame", "t_demux_ns")
way = spans.join(slowest.lazy(), on="frame").sort("t_ns")
since = (pl.col("t_ns") - pl.col("t_demux_ns")).alias("since_read_ns")
columns = (since, "duration_ns", "stage", "kind", "status", "cpu_ns", "tid")
Table(way.select(columns).collect(), "The way of the slowest frame")

# %% [markdown]
# ## The answer
#
# In words: who was late, where the time went, and what the analyses name as wrong with the
# pipeline. `07_late_frames` takes single frames apart, and says what is to blame for all of them.

# %%
verdict(part)
