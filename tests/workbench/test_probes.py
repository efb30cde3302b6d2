"""`vidlab probes`: what is recorded by which set, and every instruction of it, to read."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from vidlab.capture.ebpf import Probe, Tracepoint, sets
from vidlab.errors import InputError
from vidlab.workbench import probes

#: An instruction: its place, its operation's code, and what it does, in words.
INSTRUCTION = re.compile(r" {0,3}\d+: \([0-9a-f]{2}\) \S.*")

#: How long a program may take in all, in seconds: only one that hangs takes longer.
PATIENCE_S = 140

MODULE = """
from vidlab.capture.ebpf import Probe, arg
work = Probe("libc.so.6", "write", {"size_bytes": arg(2)})
several = [work, "sched"]
nonsense = 3
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module of the user's in the current folder, by its name."""
    name = f"own_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(MODULE)
    (tmp_path / f"broken_{name}.py").write_text("1 / 0")
    monkeypatch.chdir(tmp_path)
    return name


def check_readable(text: str) -> None:
    """Every line is an instruction, a label or a comment."""
    for line in filter(None, text.splitlines()):
        plain = INSTRUCTION.fullmatch(line) or re.fullmatch(r"\w+:|\s*; .*", line)
        assert plain, line


# --- the list ---------------------------------------------------------------------


def test_every_set_is_told_with_its_meaning_tables_and_functions() -> None:
    blocks = probes.listed().split("\n\n")
    assert [block.partition(":")[0] for block in blocks] == sets.names()
    for block in blocks:
        first, *lines = block.splitlines()
        assert len(first.partition(": ")[2]) > 20
        assert any(line.startswith(("  kernel_", "  ebpf_")) for line in lines)
        assert max(map(len, lines)) <= 100
    assert "\n    libcuda.so.1: cuMemAlloc_v2, " in probes.listed()
    assert re.search(r"and \d+ more", probes.listed())
    assert "\n    tracepoints sched: " in probes.listed()


def test_one_set_is_told_whole() -> None:
    text = probes.listed(["cuda"])
    assert "cuMemAllocFromPoolAsync_ptsz" in text
    assert not re.search(r"and\s+\d+\s+more", text)


# --- the programs -----------------------------------------------------------------


def test_the_program_of_a_call_says_what_each_part_does() -> None:
    text = probes.shown("cuda", symbol="cuMemAlloc_v2")
    check_readable(text)
    assert re.match(r"; kernel_cuda_memory cuMemAlloc_v2, \w+: \d+ instructions\n", text)
    for comment in ("; size_bytes = ", "; address = ", "; status = ", "; the call returns"):
        assert comment in text
    count = sum(int(number) for number in re.findall(r": (\d+) instructions", text))
    assert count >= len(INSTRUCTION.findall(text)) > 0.8 * count  # some take two places


def test_pairs_are_two_programs() -> None:
    text = probes.shown("libav", symbol="av_read_frame", pairs=True)
    check_readable(text)
    assert len(re.findall(r"^; kernel_libav av_read_frame, ", text, re.MULTILINE)) == 2
    assert "bpf_session" not in text


@pytest.mark.parametrize("name", sets.names())
def test_every_set_can_be_read(name: str) -> None:
    check_readable(probes.shown(name))


def test_metrics_are_shown_too(own: str) -> None:
    Path(f"{own}.py").write_text(
        "from vidlab.capture.ebpf import Counter, Histogram, Probe, duration\n"
        "call = Probe('libc.so.6', 'write', exit={})\n"
        "metrics = [Counter('writes', Probe('libc.so.6', 'write')),\n"
        "           Histogram('write_us', call, duration() // 1000, 'µs')]\n"
    )
    text = probes.shown(f"{own}:metrics")
    assert "; writes write, " in text
    assert "; write_us write, " in text


def test_what_this_kernel_lacks_is_said_in_its_place() -> None:
    event = Tracepoint("nowhere", "nothing")
    (line,) = probes._programs(probes.Plan([event]), probes.Plan([event]).members[0], True)
    assert line.startswith("; kernel_nothing nothing: ")


@pytest.mark.parametrize("name", ["cuda", "sched"])
def test_it_takes_no_privileges(name: str) -> None:
    front: list[str] = []
    if os.geteuid() == 0 and shutil.which("setpriv"):
        front = ["setpriv", "--reuid", "65534", "--clear-groups"]
    code = f"from vidlab.workbench import probes; print(probes.shown({name!r}))"
    done = subprocess.run(
        [*front, sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE_S
    )
    if "Permission denied" in done.stderr:
        pytest.skip("Python is not readable for other users here")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"; kernel_{'cuda_memory' if name == 'cuda' else 'offcpu'} ")


# --- by name ----------------------------------------------------------------------


def test_probes_of_one_s_own(own: str) -> None:
    (work,) = probes.named([f"{own}:work"])
    assert isinstance(work, Probe)
    found = probes.named([f"{own}:several", "libav", "libav"])
    assert [one if isinstance(one, str) else one.label for one in found] == [
        "write",
        "sched",
        "libav",
    ]
    assert probes.shown(f"{own}:work").startswith("; kernel_write write, ")
    assert probes.listed([f"{own}:work"]) == f"{own}:work\n  kernel_write\n    libc.so.6: write"
    assert str(Path.cwd()) not in sys.path


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nosuch", r"is no probe set.* There are .*cuda"),
        ("no_such_module:x", r"No module named 'no_such_module'\): give MODULE:ATTRIBUTE"),
        ("{own}:nosuch", r"no attribute 'nosuch'\): give MODULE:ATTRIBUTE"),
        ("{own}:", "give MODULE:ATTRIBUTE"),
        (":work", "give MODULE:ATTRIBUTE"),
        ("broken_{own}:work", "ZeroDivisionError: division by zero"),
        ("{own}:nonsense", "3 is no probe: give a Probe"),
    ],
)
def test_a_name_that_is_none(name: str, message: str, own: str) -> None:
    for use in (
        probes.shown,
        lambda name: probes.named([name]),
        lambda name: probes.listed([name]),
    ):
        with pytest.raises(InputError, match=message):
            use(name.format(own=own))


def test_a_function_that_a_set_does_not_have() -> None:
    with pytest.raises(InputError, match=r"did you mean cuMemAlloc.*'vidlab probes cuda'"):
        probes.shown("cuda", symbol="cuMemAloc")
