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
# # What holds the GPU memory?
#
# This notebook follows the GPU memory of a recorded run: what the device uses it for, which
# streams and codecs have it, what lived longer than it should, which line of code leaks, and what
# still refers to what leaked. In the end it names the leak in words.
#
# The run is a recording that comes with vidlab: three streams are decoded, uploaded and prepared
# for inference with CuPy, and one of them leaks. It was made without a GPU, in host memory
# (`vl.hostcuda`): CuPy is the real one, its calls and sizes too, and its device is called *host
# memory (no GPU)*. Name another, or the folder of a run of your own, in the next cell.

# %% tags=["parameters"]
run = "gpu_memory"
stream_id = None
codec = None
gpu = None
deadline_ms = None

# %%
import vidlab as vl
from vidlab.workbench import renderer
from vidlab.workbench.choices import choose
from vidlab.workbench.leaks import leak_report
from vidlab.workbench.memory_section import MemorySection
from vidlab.workbench.slices import Slice

renderer.enable()
recorded = vl.datasets.load(run)
part = Slice(recorded, stream_id, codec, gpu, deadline_ms)
answers = MemorySection(part)
answers.headline()

# %% [markdown]
# ## Does the bill add up?
#
# What the device says it uses is what pools gave the program, what they keep for later (cached),
# what was taken of the driver past them, the CUDA context and its modules, and other processes.
# What is left over, nobody explains: memory that a library takes behind CuPy's back shows here, in
# red, from the next sample on.

# %%
answers.bill()

# %% [markdown]
# ## Who uses it?
#
# A block counts for the stream and codec of the frame that it was taken for, from the moment at
# which it was taken until it is freed, on whichever thread. The dropdowns narrow it.

# %%
choose(part, lambda chosen: MemorySection(chosen).in_use("stream_id", "codec"))

# %% [markdown]
# Any label stacks it differently, and so does the stage in which a block was taken. Peaks of single
# streams add up to more than the peak of all, unless they come at the same moment.

# %%
answers.in_use("stage")

# %%
answers.peaks("stream_id", "codec", "stage")

# %% [markdown]
# ## What lived longer than the rest?
#
# The live sets of two moments, one after the warm-up and one at the end, are compared: what was
# taken in between and is old by the end. Young blocks are on their way; old ones stay.

# %%
choose(part, lambda chosen: MemorySection(chosen).lived_on())

# %% [markdown]
# ## Does it leak?
#
# The verdict on each line that allocates counts by frames, so that a stall or a slower stream makes
# no difference. *Leaking*: what stays grows steadily, by more than chance. *Growing*: ever more
# slowly, as a cache does that fills up. Beside each stands what is left at the end, and the
# reference that holds it.

# %%
choose(part, lambda chosen: MemorySection(chosen).leaks())

# %%
answers.growth()

# %% [markdown]
# The whole chain of references to the blocks that were still in use at the end, from a module, a
# local variable or a thread's frame down to the array:

# %%
answers.holders()

# %% [markdown]
# ## Is the pool's memory cut up?
#
# A pool serves an allocation from one gap of its free memory. Many small gaps serve no large one:
# then it asks the driver for more, although enough is free.

# %%
answers.fragmentation()

# %%
answers.hit_rate()

# %% [markdown]
# ## From the device down to the line
#
# Device, context, CUDA stream, labels, and then the calls, innermost at the bottom. Move the slider
# through time, click on a branch to open it and double click to see all of it, or search.

# %%
answers.flame()

# %% [markdown]
# All that was ever taken, given back or not: here a program that allocates anew for each frame
# stands out, even though it leaks nothing.

# %%
answers.flame("allocated")

# %% [markdown]
# Time on the GPU, of stages that were recorded with `vl.stage(…, gpu=True)` on a real one:

# %%
answers.flame("gpu_time")

# %% [markdown]
# ## Beside the frames
#
# Frames by their latency, the memory that they had, and each time the driver was asked. Does a
# frame come late when a pool has to take more? Drag over a part of the lowest panel.

# %%
answers.timeline()

# %% [markdown]
# ## The answer
#
# The verdict on each allocation site of the whole run, leaking ones first, with what holds the
# memory: `vidlab leaks RUN` says the same, and `--fail-on leaking` makes a gate of it.

# %%
print(leak_report(recorded))
