"""Against Go: its `go tool pprof` reads what is written here, and here is read what Go writes."""

from __future__ import annotations

import os
import re
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from vidlab.formats import pprof
from vidlab.formats.pprof import Profile

from .profiles import large

pytestmark = pytest.mark.needs("go")

#: Keeps two streams busy, each under its labels, and holds some memory.
PROGRAM = """
package main

import (
	"context"
	"os"
	"runtime"
	"runtime/pprof"
	"syscall"
	"time"
)

var kept [][]byte

func used() time.Duration {
	var usage syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &usage)
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

// Work for so much CPU time, however long that takes.
func work(long time.Duration) (sum int) {
	for until := used() + long; used() < until; {
		for i := 0; i < 100000; i++ {
			sum += i
		}
	}
	return
}

func write(name string, kind string) {
	file, _ := os.Create(name)
	pprof.Lookup(kind).WriteTo(file, 0)
	file.Close()
}

func main() {
	runtime.MemProfileRate = 1
	cpu, _ := os.Create("cpu.pprof")
	pprof.StartCPUProfile(cpu)
	for _, stream := range []string{"cam-1", "cam-2"} {
		labels := pprof.Labels("stream_id", stream, "codec", "h264")
		pprof.Do(context.Background(), labels, func(context.Context) {
			work(400 * time.Millisecond)
		})
	}
	pprof.StopCPUProfile()
	cpu.Close()
	for i := 0; i < 100; i++ {
		kept = append(kept, make([]byte, 1<<16))
	}
	runtime.GC() // a heap profile is of the last collection
	write("heap.pprof", "heap")
	write("goroutine.pprof", "goroutine")
}
"""


def go(folder: Path, *arguments: str) -> str:
    """Run a command of Go's in this folder, without the network; return what it prints."""
    quiet = {"GOFLAGS": "-mod=mod", "GOPROXY": "off", "GOTOOLCHAIN": "local"}
    own = {"HOME": str(folder), "GOCACHE": str(folder / "cache"), "PPROF_TMPDIR": str(folder)}
    ended = subprocess.run(
        ["go", *arguments],
        cwd=folder,
        env={"PATH": os.environ["PATH"], **quiet, **own},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def go_pprof(folder: Path, *arguments: str) -> str:
    return go(folder, "tool", "pprof", "-symbolize=none", *arguments)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two profiles that are written here: large.pprof and other.pprof."""
    folder = tmp_path_factory.mktemp("written")
    (folder / "large.pprof").write_bytes(pprof.write(large()))
    (folder / "other.pprof").write_bytes(pprof.write(large(samples=100, seed=2), compress=False))
    return folder


@pytest.fixture(scope="module")
def of_go(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with profiles that a program of Go wrote."""
    folder = tmp_path_factory.mktemp("go")
    (folder / "main.go").write_text(PROGRAM)
    go(folder, "build", "-o", "program", "main.go")
    subprocess.run(["./program"], cwd=folder, check=True, timeout=240)
    return folder


def sums(profile: Profile, place: int) -> Counter[tuple[str, str | int]]:
    """The sum of the values of one sample type, per label."""
    found: Counter[tuple[str, str | int]] = Counter()
    for sample in profile.samples:
        for label in sample.labels:
            found[label.key, label.value] += sample.values[place]
    return found


def raw_sums(raw: str, place: int) -> Counter[tuple[str, str | int]]:
    """The same, of what `go tool pprof -raw` prints."""
    found: Counter[tuple[str, str | int]] = Counter()
    values: list[str] = []
    for line in raw.partition("\nSamples:\n")[2].partition("\nLocations\n")[0].splitlines()[1:]:
        if taken := re.fullmatch(r" *(-?\d+ +-?\d+): [\d ]*", line):
            values = taken[1].split()
            continue
        for key, text in re.findall(r"(\w+):\[([^\]]*)\]", line):
            value = int(text.removesuffix(" bytes")) if key == "size" else text
            found[key, value] += int(values[place])
    return found


# --- what is written here -----------------------------------------------------------


def test_go_reads_the_same_sums_per_label(written: Path) -> None:
    raw = go_pprof(written, "-raw", "large.pprof")
    assert "samples/count cpu/nanoseconds[dflt]" in raw
    for place in (0, 1):
        assert raw_sums(raw, place) == sums(large(), place)
    tags = go_pprof(written, "-tags", "-unit=ns", "large.pprof")
    for (key, value), total in sums(large(), 1).items():
        if key != "size":
            (block,) = re.findall(rf"^ *{key}: Total .*\n((?: +\d.*\n)+)", tags, re.MULTILINE)
            assert f"{total}.0ns " in next(li for li in block.splitlines() if f": {value}" in li)


def test_go_reads_all_the_rest(written: Path) -> None:
    raw = go_pprof(written, "-raw", "large.pprof")
    assert "Period: 10000000\nTime: 2026-05-28 20:26:40 +0000 UTC\nDuration: 10s\n" in raw
    assert "PeriodType: cpu nanoseconds" in raw
    assert "1: 0x1000/0x9000/0x0 /usr/bin/python3 abc [FN][FL][LN]" in raw
    assert raw.count("M=2") == 15  # those without a name
    line = large().locations[-1].lines[0]
    known = line.function
    place = f"M=1 {known.name} {known.filename}:{line.line} s={known.start_line}"
    assert f"0x19f0 {place}({known.system_name})" in raw


def test_go_writes_back_what_it_read(written: Path) -> None:
    go_pprof(written, "-proto", "-output=back.pprof", "large.pprof")
    back = pprof.read((written / "back.pprof").read_bytes())
    assert back.sample_types == large().sample_types
    for place in (0, 1):
        assert sums(back, place) == sums(large(), place)
    assert pprof.read(pprof.write(back)) == back


def test_tagfocus_finds_a_stream(written: Path) -> None:
    total = sums(large(), 1)["stream_id", "cam-1"]
    focus = "-tagfocus=stream_id=cam-1"
    go_pprof(written, "-proto", focus, "-output=focus.pprof", "large.pprof")
    found = pprof.samples((written / "focus.pprof").read_bytes())
    assert found.values[:, 1].sum() == total
    top = go_pprof(written, "-top", "-unit=ns", focus, "large.pprof")
    assert f"Showing nodes accounting for {total}ns" in top


def test_diff_base_tells_two_profiles_apart(written: Path) -> None:
    base = sums(large(samples=100, seed=2), 1)
    expected = sums(large(), 1)
    expected.subtract(base)
    go_pprof(written, "-proto", "-diff_base=other.pprof", "-output=diff.pprof", "large.pprof")
    diff = pprof.read((written / "diff.pprof").read_bytes())
    found = sums(diff, 1)
    assert {known: found[known] for known in expected} == expected
    same = go_pprof(written, "-top", "-unit=ns", "-diff_base=large.pprof", "large.pprof")
    assert "Showing nodes accounting for 0, 0% of" in same


# --- what Go writes -----------------------------------------------------------------


@pytest.mark.parametrize("name", ["cpu", "heap", "goroutine"])
def test_a_profile_of_go_is_read_and_written_back(of_go: Path, name: str) -> None:
    data = (of_go / f"{name}.pprof").read_bytes()
    profile = pprof.read(data)
    again = pprof.write(profile)
    assert pprof.read(again) == profile
    (of_go / f"{name}.again.pprof").write_bytes(again)
    raw = go_pprof(of_go, "-raw", f"{name}.pprof")
    assert go_pprof(of_go, "-raw", f"{name}.again.pprof") == raw
    assert profile.samples
    for mapping in profile.mappings[:1]:
        assert mapping.filename.endswith("program")


def test_the_samples_of_a_profile_of_go_have_their_labels(of_go: Path) -> None:
    found = pprof.samples((of_go / "cpu.pprof").read_bytes())
    assert [known.type for known in found.types] == ["samples", "cpu"]
    assert (found.period_type, found.period) == (pprof.ValueType("cpu", "nanoseconds"), 10_000_000)
    streams = {dict(labels).get("stream_id") for labels in found.label_sets}
    assert {"cam-1", "cam-2"} <= streams
    work = [stack for stack in found.stacks if any(call[0] == "main.work" for call in stack)]
    assert work
    assert all(stack[-1][0] == "runtime.main" for stack in work)


def test_a_heap_profile_of_go_holds_what_the_program_holds(of_go: Path) -> None:
    found = pprof.samples((of_go / "heap.pprof").read_bytes())
    in_use = [known.type for known in found.types].index("inuse_space")
    program = [any(call[0] == "main.main" for call in found.stacks[s]) for s in found.stack]
    assert found.values[program, in_use].max() == 100 << 16
