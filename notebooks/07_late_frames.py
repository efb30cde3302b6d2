# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Why was this frame late?
#
# A late frame may have waited in a queue, for a CPU, for the GIL or for the garbage collector; or
# its work took long. This notebook takes late frames apart: first all of them, by what is to blame;
# then one, from the read of its packet to its delivery, with the rows that were recorded of it; and
# then whichever you click on.
#
# The run is a recording that comes with vidlab: three streams, with five faults planted and all
# engines on. Name another, or the folder of a run of your own, in the next cell. `frame` is the
# number of the frame that is taken apart, by default the latest of all; `deadline_ms` says from
# when on a frame is late.

# %% tags=["parameters"]
run = "everything"
stream_id = None
codec = None
gpu = None
deadline_ms = None
frame = None

# %%
import polars as pl

import vidlab as vl
from vidlab.analysis import latency
from vidlab.workbench import renderer
from vidlab.workbench.slices import Slice
from vidlab.workbench.tables import Table

renderer.enable()
recorded = vl.datasets.load(run)
part = Slice(recorded, stream_id, codec, gpu, deadline_ms)
late = part.late_frames().filter(pl.col("late"))
Table(latency.late_summary(part.late_frames()), "Late frames by stream")

# %% [markdown]
# ## What is to blame for all of them?
#
# Each late frame's time is compared with what punctual frames of its stream take. What is beyond
# that is blamed on what it was: a cause, in a stage or queue. Where causes overlap, a moment counts
# once. A bar is a stream, its length the seconds by which its frames were late.

# %%
explained = vl.explain_late(
    recorded, deadline_ms=part.deadline, stream_id=stream_id, codec=codec, gpu=gpu
)
explained.chart()

# %% [markdown]
# ## What happened to one of them?
#
# From the read of its packet on the left to its delivery on the right: a row for each stage and
# queue in the order of its way, and in each the part that was work and the parts that were not.
# Below are the parts by what they took beyond the usual, and the recorded rows that stand behind
# them. If nothing was late there is nothing to see: set a shorter `deadline_ms`, or name a `frame`.

# %%
worst = late.top_k(1, by="end_to_end_ns")["frame"]
frame = frame if frame is not None or worst.is_empty() else worst.item()
None if frame is None else vl.explain(recorded, frame=frame, deadline_ms=part.deadline)

# %% [markdown]
# ## And all the others?
#
# Drag over the overview to choose a time, choose a stream, a codec, a GPU or a stage, move the
# quantile: all views follow. Click on a point to see that frame's waterfall.

# %%
chosen = {"stream_id": stream_id, "codec": codec, "gpu": gpu, "deadline_ms": deadline_ms}
explorer = vl.explore(recorded, chosen)
explorer

# %% [markdown]
# What you chose there is a plain dict. Give it to somebody with the run, and
# `vl.explore(run, state)` shows the same.

# %%
explorer.state

# %% [markdown]
# ## The answer
#
# The causes, the greatest first, and what another engine would have told. The command line says the
# same: `vidlab explain RUN`.

# %%
print(explained)
