"""The data sets: small, whole, neutral; they open from anywhere, and have in them what they say."""

from __future__ import annotations

import getpass
import re
import socket
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as pq
import pytest

import vidlab as vl
from vidlab import datasets
from vidlab.analysis import cpu, health, leaks, offcpu
from vidlab.capture.gpu.hostcuda.installing import working_gpu
from vidlab.errors import InputError, RunError, VidlabError
from vidlab.lab import faults, kernel_pipeline, profile_pipeline, recordings, uploads
from vidlab.lab.diagnosis import diagnose
from vidlab.lab.health_scenarios import SCENARIOS, thresholds
from vidlab.lab.recordings import DATASETS, Dataset

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "datasets"
NAMES = sorted(path.parent.name for path in FOLDER.glob("*/manifest.json"))

#: Those in which the demo's pipeline was recorded, with what their manifests say.
OF_THE_PIPELINE = [
    name for name in NAMES if "planted" in (FOLDER / name / "manifest.json").read_text()
]

every_one = pytest.mark.parametrize("name", NAMES)


def files(name: str = "*") -> dict[str, tuple[int, int]]:
    """Every file of a data set, or of all, with its size and when it was written."""
    found = (path for folder in FOLDER.glob(name) for path in folder.rglob("*") if path.is_file())
    return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in found}


def texts_of(values: pl.Series) -> set[str]:
    """All texts in a column, of any nesting."""
    if isinstance(values.dtype, pl.List):
        return texts_of(values.explode())
    if isinstance(values.dtype, pl.Struct):
        return set().union(*(texts_of(part) for part in values.struct.unnest().get_columns()))
    if values.dtype in (pl.String, pl.Categorical, pl.Enum):
        return set(values.cast(pl.String).drop_nulls().unique())
    return set()


# --- what is there ------------------------------------------------------------------


def test_there_is_one_for_each_fault_and_each_leak() -> None:
    assert datasets.names() == NAMES
    kinds = {faults.SLOW_STAGE, faults.QUEUE_BACKS_UP, faults.GC_STALL, faults.GIL_HOG}
    kinds |= {faults.CORRUPT_PACKETS, "clean", "everything"}
    assert kinds <= set(NAMES)
    planted = [fault for name in NAMES for fault in recordings.planted(datasets.load(name))]
    held = {fault.holder for fault in planted if fault.kind == faults.LEAK}
    assert held == set(uploads.MEMORIES)
    # Each can be made anew, and whatever can be made is here, but for what takes a GPU.
    assert set(NAMES) - {"gpu"} == set(DATASETS) - {"gpu"}


def test_they_are_small() -> None:
    sizes = dict.fromkeys(NAMES, 0)
    for path, (size, _) in files().items():
        sizes[Path(path).parent.name] = sizes.get(Path(path).parent.name, 0) + size
    assert max(sizes.values()) <= 5 << 20, sizes
    assert sum(sizes.values()) <= 25 << 20, sizes


@every_one
def test_it_says_what_it_is_and_how_it_was_made(name: str) -> None:
    text = (FOLDER / name / "README.md").read_text(encoding="utf-8")
    assert text.startswith(f"# {name}: {datasets.about(name)}\n")
    assert datasets.about(name) == DATASETS[name].about
    assert f"python -m vidlab.lab.recordings {name} datasets" in text
    assert "MIT" in text
    for table, facts in datasets.load(name).manifest.tables.items():
        assert f"| {table} | {facts.rows:,} | {facts.bytes:,} |" in text


@every_one
def test_it_is_whole_and_reading_it_writes_nothing(name: str) -> None:
    before = files(name)
    run = datasets.load(name)
    assert run.state == "complete"
    for table, facts in run.manifest.tables.items():
        assert run.scan(table).collect().height == facts.rows
        assert facts.bytes == (run.path / f"{table}.parquet").stat().st_size
    assert run.cube().height
    assert vl.verify(run.path) == []
    assert files(name) == before


@every_one
def test_it_does_not_tell_where_it_was_recorded(name: str) -> None:
    found: set[str] = {(FOLDER / name / "manifest.json").read_text(encoding="utf-8")}
    for path in (FOLDER / name).glob("*.parquet"):
        for column in pl.read_parquet(path).get_columns():
            found |= texts_of(column)
        found |= {value.decode() for value in (pq.read_schema(path).metadata or {}).values()}
    assert len(found) > 10
    host = vl.open_run(FOLDER / name).manifest.host
    assert (host["name"], host["system"]) == ("lab", "Linux")
    # Folders that every machine has are nobody's.
    private = re.compile(r"(?<![\w.~])/(?!usr/|lib|proc/|sys/|dev/|/127\.0\.0\.1)[\w.]+/")
    ours = {str(ROOT), str(Path.home()), "/tmp/", "pytest"}
    names = re.compile(rf"\b({re.escape(socket.gethostname())}|{re.escape(getpass.getuser())})\b")
    for text in found:
        assert not private.search(text), text
        assert not any(folder in text for folder in ours), text
        if "/" in text:  # in a word such as `root` alone there is nothing
            assert not names.search(text), text


# --- what is in them ----------------------------------------------------------------


@pytest.mark.parametrize("name", OF_THE_PIPELINE)
def test_the_analyses_name_what_was_planted_and_nothing_else(name: str) -> None:
    run = datasets.load(name)
    assert recordings.named(run) == recordings.planted(run)
    kinds = {cause.kind for cause in diagnose(run)}
    assert kinds == {fault.kind for fault in recordings.planted(run)}
    assert recordings.as_planted(run)


def test_in_everything_every_engine_recorded() -> None:
    run = datasets.load("everything")
    engines = {engine.name for engine in run.manifest.engines}
    assert engines == {
        "frames",
        "gpu_memory",
        "gpu_sampler",
        "kernel_events",
        "profiles",
        "runtime",
    }
    for table in ("spans", "allocations", "gc_pauses", "wakeups", "thread_waits", "queue_depths"):
        assert run.manifest.tables[table].rows > 20, table
    for table in ("kernel_offcpu", "kernel_libav", "profile_samples", "holders", "gpu_samples"):
        assert run.manifest.tables[table].rows > 10, table
    assert run.losses.keys() <= {"kernel_offcpu"}


def test_gpu_memory_leaks_in_one_line_of_one_stream() -> None:
    run = datasets.load("gpu_memory")
    tables = [run.scan(name) for name in ("allocations", "frames", "stacks", "holders")]
    found = leaks.verdicts(*tables, by=["stream_id", "codec"])
    (leaking,) = found.filter(pl.col("verdict") == leaks.LEAKING).to_dicts()
    assert (leaking["stream_id"], leaking["codec"]) == ("cam-2", "hevc")
    assert leaking["site"].startswith("Stream.prepare ")
    assert "Stream._suspects" in leaking["holder"]


def test_kernel_events_show_the_lock_and_all_connections() -> None:
    run = datasets.load("kernel_events")
    waits = offcpu.by_stage(run.scan("kernel_offcpu"), run.scan("spans"))
    sleeping = waits.filter(pl.col("state") == "sleeping").sort("total_ns", descending=True)
    inside = sleeping.filter(
        pl.col("stage").is_in(["upload", "prepare", kernel_pipeline.SLOW_STAGE])
    )
    assert inside["stage"][0] == kernel_pipeline.SLOW_STAGE
    assert {"kernel_tcp", "kernel_cuda_memory", "kernel_libav"} <= set(run.tables())


def test_profiles_show_the_eager_stream() -> None:
    run = datasets.load("profiles")
    took = cpu.by_label(run.scan("spans"), run.scan("profile_samples"), ["stream_id", "stage"])
    search = took.filter(pl.col("stage") == "search")
    by_stream = dict(search.select("stream_id", "cpu_ns").iter_rows())
    eager = by_stream.pop(profile_pipeline.EAGER_STREAM)
    assert eager > 2 * max(by_stream.values())


def test_the_health_of_the_services_is_as_planted() -> None:
    found = health.verdicts(datasets.load("runtime_health"), thresholds(6.0))
    for name in recordings.SCENARIOS:
        planted = SCENARIOS[name]
        subjects = found.filter(pl.col("kind") == planted.kind)["subject"].to_list()
        for subject in planted.subjects:
            assert any(subject in known for known in subjects), (name, subjects)


# --- opening them -------------------------------------------------------------------


def test_a_name_opens_a_data_set_and_a_path_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with vl.record("clean", engines=[vl.Frames()]), vl.stage("alone"):
        pass
    assert vl.datasets.load("clean").path == FOLDER / "clean"
    assert vl.datasets.load("./clean").path == Path("clean")
    assert vl.datasets.load(tmp_path / "clean").manifest.run_id == (
        vl.open_run("clean").manifest.run_id
    )


def test_what_is_not_there_is_told_with_what_is() -> None:
    with pytest.raises(InputError, match="there is no data set 'cleen'") as raised:
        datasets.load("cleen")
    lines = str(raised.value).splitlines()[1:]
    assert [line.split()[0] for line in lines] == NAMES
    assert all(line.endswith(datasets.about(line.split()[0])) for line in lines)
    with pytest.raises(InputError, match=r"no data set 'cleen': choose among clean, "):
        datasets.about("cleen")


def test_a_folder_that_is_no_run_is_told_as_such(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"has no manifest\.json"):
        datasets.load(tmp_path)


def test_an_installation_without_them_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets, "_PLACES", (tmp_path / "_datasets", tmp_path / "datasets"))
    with pytest.raises(RunError, match=r"vidlab\.lab\.recordings clean"):
        datasets.load("clean")


# --- making them --------------------------------------------------------------------


def _tiny(path: Path) -> None:
    """Record a run that names this machine's folders."""
    with vl.record(path, engines=[vl.Frames()], parameters={"planted": []}) as recording:
        with vl.stage("alone"):
            pass
        site = "/site-packages/cupy/cuda/memory.py"
        recording.writer.stacks([[("alloc", f"{Path(pytest.__file__).parents[1]}{site}", 1)]])


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(DATASETS, "tiny", Dataset("tiny", "a stage alone", _tiny, "It is alone."))


@pytest.mark.usefixtures("tiny")
def test_one_is_made_anew_by_one_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "made"
    for _ in range(2):  # the second in place of the first
        assert recordings.main(["tiny", str(folder)]) == 0
    assert capsys.readouterr().out == f"{folder / 'tiny'}\n" * 2
    run = vl.open_run(folder / "tiny")
    assert vl.verify(run.path) == []
    assert run.manifest.host["name"] == "lab"
    (process,) = run.manifest.processes
    assert process.argv == ("-m", "vidlab.lab.recordings", "tiny", "datasets")
    text = (folder / "tiny" / "README.md").read_text(encoding="utf-8")
    assert text.startswith("# tiny: a stage alone\n")
    assert "It is alone." in text
    assert str(tmp_path) not in text + str(run.manifest)
    assert [path.name for path in folder.iterdir()] == ["tiny"]


def test_what_cannot_be_made_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert recordings.main(["cleen", str(tmp_path)]) == 2
    assert "there is no data set 'cleen': choose among clean, " in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(working_gpu() is not None, reason="a real GPU works here")
def test_what_takes_a_gpu_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert recordings.main(["gpu", str(tmp_path)]) == 2
    assert "no GPU works here" in capsys.readouterr().err


@pytest.mark.usefixtures("tiny")
def test_one_that_is_damaged_does_not_replace_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recordings.make("tiny", tmp_path)
    before = (tmp_path / "tiny" / "manifest.json").read_bytes()

    def damaged(path: Path) -> None:
        _tiny(path)
        (path / "cube.parquet").unlink()

    monkeypatch.setitem(DATASETS, "tiny", Dataset("tiny", "a stage alone", damaged))
    with pytest.raises(VidlabError, match=r"cube\.parquet: missing"):
        recordings.make("tiny", tmp_path)
    assert (tmp_path / "tiny" / "manifest.json").read_bytes() == before


def test_a_fault_that_no_analysis_names_is_not_as_planted(monkeypatch: pytest.MonkeyPatch) -> None:
    def also_this(run: Any) -> list[faults.Fault]:
        return [faults.Fault(faults.GIL_HOG, begins_s=1.0, ends_s=2.0)]

    monkeypatch.setattr(recordings, "planted", also_this)
    assert not recordings.as_planted(datasets.load("clean"))
    assert not recordings.as_planted(datasets.load("slow_stage"))


def test_the_folder_s_readme_lists_all() -> None:
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    listed = dict(re.findall(r"^\| \[`(\w+)`\]\(\1\) \| (.*) \|$", text, flags=re.MULTILINE))
    assert listed == {name: datasets.about(name) for name in NAMES}
