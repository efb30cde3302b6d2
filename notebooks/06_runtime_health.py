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
# # What did the interpreter and its heap do to the frames?
#
# This notebook looks at what is under every Python program: the garbage collector, the lock that
# lets one thread run Python at a time (the GIL), the CPUs that threads wait for, event loops and
# their tasks, and what caches, queues and context variables hold. `vl.Runtime()` records it.
#
# The run is a recording that comes with vidlab: four small services at once, each with a fault that
# is common in such programs. Name another, or the folder of a run of your own, in the next cell.

# %% tags=["parameters"]
run = "runtime_health"
stream_id = None
codec = None
gpu = None
deadline_ms = None

# %%
import vidlab as vl
from vidlab.analysis.thresholds import Thresholds
from vidlab.workbench import renderer
from vidlab.workbench.choices import choose
from vidlab.workbench.health_section import HealthSection
from vidlab.workbench.health_summary import HealthSummary
from vidlab.workbench.slices import Slice

renderer.enable()
recorded = vl.datasets.load(run)
part = Slice(recorded, stream_id, codec, gpu, deadline_ms)
thresholds = Thresholds(task_age_seconds=3)
answers = HealthSection(part, thresholds)
answers.headline()

# %% [markdown]
# ## What is wrong?
#
# A verdict names the thread, task, holder or queue, and says what to do. From when on something is
# worth a word is up to you: `Thresholds` has every limit, and above one of them is changed, as a
# recording of seconds is too short for the usual one.

# %%
answers.told()

# %%
answers.beyond()

# %% [markdown]
# ## What happened while frames were slow?
#
# All on one time axis: the latency of frames, the collector's pauses, how late Python ran again
# after a short sleep and what it waited for, which threads waited for a CPU, and how late event
# loops were. What stands below a slow moment is a suspect.

# %%
choose(part, lambda chosen: HealthSection(chosen).timeline(), table="frames")

# %% [markdown]
# ## How long did the garbage collector take?
#
# While it runs, no Python code of its process does. Generation 2 goes through all containers that
# are alive, so its pauses grow with what the program keeps.

# %%
answers.collections()

# %% [markdown]
# ## Who had the CPU, and who the GIL?
#
# Python is late if a thread that is due gets no CPU, or does not get the GIL. The kernel counts the
# former. The latter is the rest, and so an estimate; so is who held it: the threads that had the
# CPU meanwhile.

# %%
answers.wakeups()

# %%
answers.holders_of_the_gil()

# %%
answers.scheduling()

# %%
answers.threads()

# %% [markdown]
# ## What did event loops wait for?
#
# A loop that runs what is due late was blocked by code that does not await. A task that is never
# seen to move waits for what does not come.

# %%
answers.loops()

# %%
answers.tasks()

# %% [markdown]
# ## What holds memory, and goes on growing?
#
# In the profile `debug` the engine looks now and then what caches, globals, context variables and
# queues hold, and which lines of the program allocated most.

# %%
answers.holders()

# %%
answers.lines()

# %% [markdown]
# ## How did the process fare?
#
# Counters are drawn as what they grow a second. `answers.metrics(None)` shows all metrics,
# `vidlab metrics` says what each means.

# %%
answers.metrics()

# %% [markdown]
# ## The answer
#
# Each verdict, worst first, with what to do about it; and what could not be looked at. The command
# line says the same: `vidlab health RUN --threshold task_age_seconds=3`.

# %%
print(HealthSummary(recorded, thresholds))
