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
# # What did the kernel and the drivers do meanwhile?
#
# This notebook looks at a recorded run from below: what threads waited for while they were not on
# a CPU, how much of decoding is FFmpeg's own time, which device memory was taken past CuPy, what
# was copied where, and how the cameras' connections went. The events come from eBPF probes that are
# declared in Python; each carries the span that its thread was in, and with it the frame.
#
# The run is a recording that comes with vidlab: three cameras are read over TCP, decoded and worked
# on with CuPy (on host memory, without a GPU), while the cameras fall silent for a second, a
# neighbour takes the CPUs away for another, and a lock is held too long. Name another, or the
# folder of a run of your own, in the next cell. Recording kernel events takes Linux 6.6 and the
# capabilities CAP_BPF and CAP_PERFMON, or a broker that has them (`sudo vidlab ebpf-broker`);
# looking at them takes neither.

# %% tags=["parameters"]
run = "kernel_events"
stream_id = None
codec = None
gpu = None
deadline_ms = None

# %%
import vidlab as vl
from vidlab.workbench import renderer
from vidlab.workbench.choices import choose
from vidlab.workbench.kernel_section import KernelSection
from vidlab.workbench.slices import Slice

renderer.enable()
recorded = vl.datasets.load(run)
part = Slice(recorded, stream_id, codec, gpu, deadline_ms)
answers = KernelSection(part)
recorded

# %% [markdown]
# ## What did threads wait for?
#
# Each time that a thread left its CPU is a row, with the state that it left in and the stage that
# it was in. *Sleeping* is a wait of its own making: for a lock, a queue, the network. *Preempted*
# is not: it could have run, and another thread had the CPU.

# %%
answers.offcpu()

# %%
answers.offcpu_over_time()

# %% [markdown]
# Once what it slept for has come, a thread still has to get a CPU. How long that took is the
# run-queue wait: milliseconds here mean that the machine has too little CPU, whoever uses it.

# %%
answers.wakeups()

# %% [markdown]
# ## How much of decoding is FFmpeg itself?
#
# The spans of the frame engine are around PyAV's calls, the probes on FFmpeg's own functions. What
# is between them is Python's: waiting for its lock, making objects. The dropdowns narrow it.

# %%
choose(part, lambda chosen: KernelSection(chosen).decode(), table="spans")

# %% [markdown]
# The kernel also counts how long each such call took, without an event: in a histogram,
# `ebpf_video_decode_us`, for each stream. That costs less, and can stay on all day. Many calls only
# hand over what is done elsewhere, in threads of the decoder's own: the work is in those on the
# right.

# %%
choose(part, lambda chosen: KernelSection(chosen).decode_counted(), table="spans")

# %%
answers.counters()

# %% [markdown]
# ## Who took the device's memory?
#
# The probes see each allocation of the process, CuPy's tracker those that go through CuPy. Where
# both saw one it is the same pointer. What only the probes saw, another library took.

# %%
answers.memory()

# %% [markdown]
# ## What was copied where?
#
# Blocks of device memory and the copies between them: uploads from host memory, results back, and
# copies on the device, which a pipeline can often do without.

# %%
answers.copies()

# %% [markdown]
# ## How did the cameras' connections go?
#
# A connection belongs to the process that opened it, and to the stream for which it was read. Its
# round-trip time is the kernel's own estimate.

# %%
choose(part, lambda chosen: KernelSection(chosen).connections(), table="spans")

# %%
choose(part, lambda chosen: KernelSection(chosen).by_connection(), table="spans")

# %% [markdown]
# ## What was attached, and what became of the hits?
#
# Hits are counted in the kernel. Each was recorded, left out on purpose, or lost: nothing is
# missing silently.

# %%
answers.probes()

# %% [markdown]
# ## The answer
#
# How much was seen, and what stages waited for most. `07_late_frames` sets such waits against the
# other causes that made a frame late.

# %%
answers.headline()
