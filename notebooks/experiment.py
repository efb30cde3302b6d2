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
# # Experiment: what makes frames late under these conditions?
#
# This notebook runs a pipeline under the conditions of the next cell, records it, and answers.
# Each stream is read at its camera's rate, decoded, filtered, copied to the GPU, searched for
# motion and encoded, by a thread a step with queues of eight places between. All streams run at
# once, so they compete for the CPUs of this machine as they would in a service.
#
# - `run`: the folder of the recording; empty, a temporary one
# - `input`: your own clips, with commas between; empty, clips are made by real encoders
# - `streams`: how many at once; they take the clips in turn
# - `codec`: of the clips that are made, of `h264,hevc,av1,vp9`; empty, all of them
# - `gpu`: the device that all streams work on, which is their label too
# - `backend`: whose memory pictures are copied to: `cuda`, a GPU's; `hostcuda`, host memory in
#   place of one; `cpu`, nobody's; `auto`, the first of these that works
# - `engines`: what to record with, of `frames,gpu,kernel,runtime,profiles`, or `all`
# - `faults`: what to plant, of `slow_stage,corrupt_packets,queue_backs_up,gc_stall,gil_hog,leak`,
#   or `all`; empty, nothing
# - `deadline_ms`: when a frame is late; `None`, beyond 200 ms, of your own clips beyond three frame
#   intervals
# - `seconds`: how much of each clip; `None`, all of it
#
# `vidlab experiment` does the same from the command line, and papermill runs this notebook once for
# each set of parameters: `papermill experiment.ipynb out.ipynb -p streams 16 -p codec av1`.

# %% tags=["parameters"]
run = ""
input = ""
streams = 4
codec = ""
gpu = None
backend = "auto"
engines = "frames,gpu,runtime"
faults = "slow_stage,gc_stall"
deadline_ms = None
seconds = 6.0

# %%
import tempfile
from pathlib import Path

import vidlab as vl
from vidlab.analysis import closure, latency, queues
from vidlab.lab.experiment import run_experiment
from vidlab.workbench import renderer
from vidlab.workbench.memory_section import MemorySection
from vidlab.workbench.slices import Slice
from vidlab.workbench.tables import Table

renderer.enable()
run = run or str(Path(tempfile.mkdtemp(prefix="vidlab-")) / "run")

# %% [markdown]
# ## Run and record
#
# The recording goes on for as long as the clips last. The table says which streams were late, and
# how much the latest frames took.

# %%
shown = run_experiment(
    run,
    input=input,
    streams=streams,
    codec=codec,
    gpu=gpu,
    backend=backend,
    engines=engines,
    faults=faults,
    deadline_ms=deadline_ms,
    seconds=seconds,
)
part = Slice(shown.run)
lost = part.lost("frames", "spans")
Table(latency.late_summary(part.late_frames()), "Late frames by stream")

# %% [markdown]
# ## What made them late?
#
# Each late frame's time is compared with what punctual frames of its stream take; what is beyond
# that is blamed on a cause, in a stage or queue. Overlapping causes are not counted twice.

# %%
shown.late

# %%
shown.late.chart()

# %% [markdown]
# ## Was what was planted found?
#
# The analyses know nothing of what was planted, and name what is wrong by themselves. A slow stage
# shows only beside another codec, whose same stage is fast. The sentences below the table are all
# that they name, planted or not.

# %%
Table(shown.faults(), "Planted faults, and whether the analyses name them")

# %%
print("\n".join(shown.causes) or "The analyses find nothing wrong.")

# %% [markdown]
# ## How is the latency spread?
#
# A step is a percentile of all frames, from the read of a frame's packet to its delivery.

# %%
frames, spans = part.scan("frames"), part.run.scan("spans")
shares = [percent / 100 for percent in range(101)]
steps = latency.end_to_end(frames, by="codec", quantiles=shares)
vl.charts.latency.distribution(steps, deadline_ms=part.deadline, lost=lost)

# %% [markdown]
# ## Where does the time go, late or not?
#
# The mean way of a stream's frames, in work, waits in queues, reordering, the encoder's lag, and a
# rest that no span covers.

# %%
vl.charts.closure.by_stream(closure.means(closure.closure(frames, spans)), lost=lost)

# %% [markdown]
# ## Which queues were full, and when?
#
# A queue that is full holds up what fills it: what takes from it is too slow, or stays away.

# %%
levels = queues.levels(part.scan("queue_depths"))
vl.charts.queues.levels(levels, start_ns=part.start_ns, lost=part.lost("queue_depths"))

# %% [markdown]
# ## What holds the GPU memory?
#
# Bytes in use over time, by stream. Without a device, or without the engine `gpu`, there is nothing
# to see here.

# %%
memory = MemorySection(part)
memory.headline()

# %%
memory.in_use()

# %% [markdown]
# ## The answer
#
# What made frames late, the greatest first; what the analyses name besides; and how much of what
# was planted they found. `vidlab experiment` prints the same.

# %%
print(shown)
