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
# # Quickstart: how long does each stage of a small pipeline take?
#
# This notebook makes a short clip, records a pipeline that decodes it and looks for motion, and
# asks the recording: how long each stage takes, whether that is all of a frame's time, whether all
# frames arrived, and what the labels on each row cost. It needs no GPU and no network, takes some
# ten seconds, and writes into a temporary folder. The next cell can name another, and put a label
# of your choice on what is recorded.

# %% tags=["parameters"]
run = ""
stream_id = None
codec = None
gpu = None
deadline_ms = None

# %%
import tempfile
from pathlib import Path

import cv2

import vidlab as vl
from vidlab.analysis import closure, labelcosts, latency, losses
from vidlab.lab.clips import Clip, make_clips
from vidlab.workbench import renderer
from vidlab.workbench.slices import Slice
from vidlab.workbench.tables import Table
from vidlab.workbench.verdict import verdict

renderer.enable()
folder = Path(tempfile.mkdtemp(prefix="vidlab-"))
run = run or str(folder / "run")

# %% [markdown]
# ## A clip
#
# Four seconds of H.264 with B-frames, made by a real encoder.

# %%
recipe = Clip("quickstart", "libx264", {"preset": "veryfast", "bf": "2"}, seconds=4.0)
[clip] = make_clips([recipe], folder)
clip.name

# %% [markdown]
# ## Record
#
# While `vl.record` is open, PyAV, OpenCV and queues report what they do; the program itself stays
# as it was. `vl.stage` names what only you know, `vl.deliver` says that you are done with a frame.
# Each frame keeps its identity from its packet to there, and every row is under its labels.

# %%
motion = cv2.createBackgroundSubtractorMOG2()

with (
    vl.record(run, overwrite=True),
    vl.labels(stream_id=stream_id or "quickstart", codec=codec, gpu=gpu),
    vl.open_video(clip) as video,
):
    for frame in video.frames():
        with vl.stage("motion", frame):
            image = frame.to_ndarray(format="bgr24")
            moving = motion.apply(cv2.resize(image, (160, 90)))
        vl.deliver(frame)

# %% [markdown]
# ## Ask
#
# A run is a folder of Parquet files, one a table; `scan` gives any of them as a polars LazyFrame.

# %%
recorded = vl.open_run(run)
recorded

# %% [markdown]
# ## How long does each stage take?
#
# A line a stage and codec: half of its spans are shorter than the p50, one in a hundred is longer
# than the p99. The kind *service* is work; *reorder* is what a decoder waits for frames that are
# shown earlier.

# %%
lost = Slice(recorded).lost("spans", "frames")
spans, frames = recorded.scan("spans"), recorded.scan("frames")
percentiles = latency.percentiles(spans)
Table(percentiles, "Durations by stage and codec")

# %%
vl.charts.latency.percentiles(percentiles, lost=lost)

# %% [markdown]
# ## Is that all of a frame's time?
#
# The ten slowest frames, each a bar from the read of its packet to its delivery, made up of what
# it went through. What no span covers is the residual: here, next to nothing.

# %%
closed = closure.closure(frames, spans)
vl.charts.closure.frames(closed.top_k(10, by="end_to_end_ns"), lost=lost)

# %% [markdown]
# ## Did all frames arrive?
#
# A frame is *delivered* when a sink has consumed it. All others are counted by what became of them.

# %%
Table(losses.fates(frames), "What became of the frames")

# %% [markdown]
# ## What do the labels cost?
#
# A line a label: how many values it has, how many rows bear it, and what that takes on the disk and
# in memory. `vidlab labels RUN` says the same.

# %%
columns = ("key", "values", "rows", "bytes", "memory_bytes")
Table(labelcosts.costs(recorded).select(columns), "What each label costs")

# %% [markdown]
# ## The answer
#
# In words: who was late, and where the time went. All of this, and more, is in the report:
# `vidlab report RUN`, or `vl.write_report(run, "r.html")`. `02_frame_latency` follows the frames of
# a busier run.

# %%
verdict(Slice(recorded, deadline_ms=deadline_ms))
