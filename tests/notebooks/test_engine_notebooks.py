"""The notebooks on what one engine records, run from top to bottom."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from .conftest import Execute

CommandLine = Callable[..., str]

#: The table of notebook 05 with the streams' CPU, and those streams.
CPU, STREAMS = "CPU by the clocks, and by samples", {"cam-1", "cam-2"}


# --- 03 -----------------------------------------------------------------------------


def test_gpu_memory_names_the_leak_and_its_holder(
    execute: Execute, command_line: CommandLine
) -> None:
    executed = execute("03_gpu_memory")
    assert executed.charts >= 10
    [headline] = [text for text in executed.shown if "were in use at once" in text]
    assert "1 allocation site leaks: Stream.prepare" in headline
    assert "(cam-2, hevc)" in headline
    assert "Stream._suspects" in headline
    [holders] = [text for text in executed.shown if "What holds the blocks" in text]
    assert "Stream._background" in holders
    assert "hevc" in holders
    assert executed.printed == command_line("leaks", "gpu_memory")


def test_gpu_memory_of_one_codec(execute: Execute, command_line: CommandLine) -> None:
    executed = execute("03_gpu_memory", run="leak_queue", codec="av1")
    [headline] = [text for text in executed.shown if "were in use at once" in text]
    assert "1 allocation site leaks: Uploads.upload" in headline
    assert "Results.thumbnails" in headline
    assert executed.printed == command_line("leaks", "leak_queue")
    [leaking] = [
        fact
        for fact in json.loads(command_line("leaks", "leak_queue", "--json"))
        if fact["verdict"] == "leaking"
    ]
    assert leaking["holder"] in executed.printed


# --- 04 -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "parameters", [{}, {"stream_id": "cam-2", "codec": "hevc"}], ids=["whole", "slice"]
)
def test_kernel_events_answer(execute: Execute, parameters: dict[str, Any]) -> None:
    executed = execute("04_kernel_events", **parameters)
    assert executed.charts == 7
    for word in ("annotate", "cudaMalloc", "driver only", "block 1", "hevc", "sched_switch"):
        assert word in executed.text, word
    assert "cam-2" in executed.text
    assert ("cam-3" in executed.text) == ("stream_id" not in parameters)
    assert "Stages were off the CPU most in" in executed.shown[-1]
    assert "kinds" in executed.shown[-1]
    streams = {row[0] for row in executed.table("TCP by stream")}
    assert streams == ({"cam-2"} if parameters else {"cam-1", "cam-2", "cam-3"})


# --- 05 -----------------------------------------------------------------------------


@pytest.mark.parametrize("parameters", [{}, {"stream_id": "cam-2"}], ids=["whole", "slice"])
def test_profiles_answer(execute: Execute, parameters: dict[str, Any]) -> None:
    executed = execute("05_profiles", **parameters)
    assert executed.charts >= 8
    assert sum("s of CPU, most of it " in text for text in executed.shown) == 1
    for word in ("resize_slowly", "neighbour", "cam-2"):
        assert word in executed.text, word
    streams = {row[0] for row in executed.table(CPU) if row[0] != "–"}
    assert streams == ({"cam-2"} if parameters else STREAMS)


# --- 06 -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({}, ("unbounded queue", "cache growth", "context variable growth", "task never ends")),
        ({"run": "gil_hog", "stream_id": "cam-1"}, ("gil hog",)),
    ],
    ids=["runtime_health", "gil_hog"],
)
def test_runtime_health_says_what_the_command_line_says(
    execute: Execute, command_line: CommandLine, parameters: dict[str, Any], words: tuple[str, ...]
) -> None:
    executed = execute("06_runtime_health", **parameters)
    name = parameters.get("run", "runtime_health")
    limit = "task_age_seconds=3"
    assert executed.printed == command_line("health", name, "--threshold", limit)
    told = executed.table("What is wrong with the runtime")
    verdicts = json.loads(command_line("health", name, "--threshold", limit, "--json"))
    assert [row[2] for row in told] == [verdict["subject"] for verdict in verdicts]
    kinds = {row[1] for row in told}
    assert set(words) <= kinds, kinds
