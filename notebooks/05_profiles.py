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
# # Which code uses the CPU, and for whom?
#
# This notebook takes the CPU of a recorded run apart: by stream, codec, stage and thread, down to
# the calls. How much it is, the threads' clocks say, read at both ends of each stage: that is
# exact. What it went into, a sampling profiler says (pyroscope-io). Its samples only share out the
# exact amount, for by itself a profiler takes waiting for running.
#
# The run is a recording that comes with vidlab: two streams of different codecs, one of which is
# searched three times as hard, and a resize that now and then takes a slow way. Name another, or
# the folder of a run of your own, in the next cell. Recording profiles takes
# `pip install vidlab[profile]`; looking at them does not.

# %% tags=["parameters"]
run = "profiles"
stream_id = None
codec = None
gpu = None
deadline_ms = None

# %%
import vidlab as vl
from vidlab.workbench import renderer
from vidlab.workbench.choices import choose
from vidlab.workbench.profile_section import ProfileSection
from vidlab.workbench.slices import Slice

renderer.enable()
recorded = vl.datasets.load(run)
part = Slice(recorded, stream_id, codec, gpu, deadline_ms)
answers = ProfileSection(part)
recorded

# %% [markdown]
# ## Who uses the CPU?
#
# The bars are exact. The red mark is what the profiler's samples alone would make of it: right of
# the bar's end it took waiting for work, left of it it overlooked some.

# %%
answers.by_label()

# %%
choose(part, lambda chosen: ProfileSection(chosen).by_stage(), table="spans")

# %% [markdown]
# Each thread, in stages and outside of them. What is outside has no stage that one could blame:
# name it by `vl.stage("…")` if it is much.

# %%
answers.by_thread()

# %% [markdown]
# ## Which calls?
#
# As wide as its CPU, from the labels at the top down to the line. Branches of fewer than thirty
# samples are not divided: what they would show is chance.

# %%
choose(part, lambda chosen: ProfileSection(chosen).flame(), table="spans")

# %%
choose(part, lambda chosen: ProfileSection(chosen).flame("codec", "stage"), table="spans")

# %% [markdown]
# ## What does one stream spend more on than another?
#
# CPU for each delivered frame: orange is more, blue less. `answers.difference("codec")` compares
# codecs, `answers.against(vl.open_run("…"))` this run with another.

# %%
answers.difference()

# %% [markdown]
# ## Why are the slow ones slow?
#
# The slowest tenth of a stage's spans, beside the rest of them: orange is what the slow ones do
# that others don't. First the stage that took most, then `resize`. The table has the stacks that
# were seen in the slowest one of all.

# %%
answers.slow()

# %%
answers.slow("resize")

# %%
answers.slowest("resize")

# %% [markdown]
# ## Who takes Python's memory?
#
# What went through Python's own allocator; the profiler samples it, about every half MiB.

# %%
answers.memory("inuse_space")

# %%
answers.memory("alloc_space")

# %% [markdown]
# ## What did the profiler send?
#
# A line a kind of profile: how often it came, how much of it, and what was lost on the way.

# %%
answers.pushes()

# %% [markdown]
# ## The answer
#
# How much CPU the stages took, by their threads' clocks, and which of them took most; then the
# same by stream, codec and stage, the greatest first.

# %%
answers.headline()

# %%
answers.table()
