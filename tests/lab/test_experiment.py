"""Experiments: each parameter does what it says, nonsense is refused, and the answers are right."""

from __future__ import annotations

import ast
import itertools
import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import jupytext
import polars as pl
import pytest

import vidlab as vl
from vidlab import cli
from vidlab.errors import InputError, VidlabError
from vidlab.lab import backends, faults, planting, setups, sources, uploads
from vidlab.lab.clips import CLIPS, Clip, make_clips
from vidlab.lab.experiment import Experiment, run_experiment
from vidlab.lab.faults import Fault
from vidlab.lab.pipeline import Source
from vidlab.lab.setups import set_up
from vidlab.workbench import notebooks

NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "experiment.ipynb"

#: Small ones, 20 frames each, of two codecs.
SMALL = [
    Clip("small", "libx264", {"bf": "2"}, width=160, height=90, seconds=0.8),
    Clip("other", "libvpx-vp9", {"b": "200k"}, width=160, height=90, seconds=0.8),
]


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return make_clips(SMALL, tmp_path_factory.mktemp("clips"))


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory, clips: list[Path]) -> Experiment:
    """Of three streams, one codec of which is slow beyond the deadline, on the second GPU."""
    return run_experiment(
        tmp_path_factory.mktemp("experiment") / "run",
        input=f"{clips[0]}, {clips[1]}",
        streams=3,
        backend="hostcuda",
        gpu=1,
        faults="slow_stage",
        deadline_ms=100,
        engines="frames,gpu,runtime",
    )


# --- what comes out -------------------------------------------------------------


@pytest.mark.needs("hostcuda")
def test_streams_take_the_inputs_in_turn_under_their_labels(shown: Experiment) -> None:
    frames = shown.run.scan("frames").collect()
    counted = frames.group_by(pl.col("stream_id", "codec", "gpu").cast(pl.String)).len()
    small, other = (Path(name).stem for name in shown.facts()["experiment"]["input"])
    assert set(counted.rows()) == {
        (f"{small}-1", "h264", "1", 20),
        (other, "vp9", "1", 20),
        (f"{small}-3", "h264", "1", 20),
    }
    taken = (pl.col("op") == "alloc") & pl.col("stream_id").is_not_null()
    allocations = shown.run.scan("allocations").filter(taken).collect()
    assert set(allocations["device"]) == {1}
    assert set(allocations["gpu"]) == {1}
    assert shown.device == "host memory (no GPU)"
    assert {"gpu_samples", "gc_pauses", "wakeups"} <= set(shown.run.tables())
    assert vl.verify(shown.run.path) == []


@pytest.mark.needs("hostcuda")
def test_what_was_planted_is_found_and_blamed(shown: Experiment) -> None:
    fault = Fault(faults.SLOW_STAGE, codec="h264", stage="filter")
    assert shown.planted == shown.found == [fault]
    assert shown.faults().select("fault", "strikes", "stage", "found").rows() == [
        ("slow_stage", "h264", "filter", "yes")
    ]
    assert any("filter takes" in cause for cause in shown.causes)
    # Its frames slept in the stage, which held up those behind them, for longer than all others.
    blamed = shown.late.ranked.filter(pl.col("cause").is_in(["asleep", "queue_wait"]))
    of_stage = blamed.filter(pl.col("stage").cast(pl.String).is_in(["filter", "before filter"]))
    by_codec = dict(
        of_stage.group_by(pl.col("codec").cast(pl.String)).agg(pl.col("seconds").sum()).rows()
    )
    assert by_codec["h264"] > 20 * faults.SLOW_INTERVALS / 25
    text = str(shown)
    assert "1 of 1 planted faults were found" in text
    assert str(shown.late) in text
    assert all(cause in text for cause in shown.causes)


@pytest.mark.needs("hostcuda")
def test_the_run_says_how_it_was_made(shown: Experiment) -> None:
    parameters = shown.run.manifest.parameters
    assert parameters["deadline_ms"] == 100
    assert parameters["planted"] == [fault.facts() for fault in shown.planted]
    assert parameters["experiment"] == {
        **parameters["experiment"],
        "streams": 3,
        "codec": [],
        "gpu": 1,
        "backend": "hostcuda",
        "engines": ["frames", "gpu", "runtime"],
        "faults": ["slow_stage"],
        "seconds": None,
    }
    assert json.loads(json.dumps(shown.facts())) == shown.facts()
    assert shown.facts()["explained"] == vl.explain_late(shown.run).facts()


def test_the_command_line_runs_one_and_says_the_same(
    tmp_path: Path, clips: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["experiment", "-o", tmp_path / "run", "--input", clips[1], "--seconds", "0.4"]
    arguments += ["--backend", "cpu", "--engines", "frames", "--deadline-ms", "0.01", "--json"]
    assert cli.main([*map(str, arguments)]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["experiment"]["streams"] == 1
    assert facts["device"] == "without GPU memory, as the backend cpu is"
    explained = facts["explained"]
    assert (explained["frames"], explained["late"]) == (10, 10)
    assert explained == json.loads(json.dumps(vl.explain_late(tmp_path / "run").facts()))
    assert set(vl.open_run(tmp_path / "run").tables()) & {"allocations", "wakeups"} == set()


def test_the_parameters_are_the_same_everywhere() -> None:
    script = jupytext.read(NOTEBOOK.with_suffix(".py"))
    (cell,) = [cell for cell in script.cells if "parameters" in cell.metadata.get("tags", [])]
    assigned = [node.targets[0].id for node in ast.parse(cell.source).body]  # type: ignore[attr-defined]
    names = list(run_experiment.__kwdefaults__)
    assert assigned == ["run", *names]
    options = cli._parser().parse_args(["experiment"])
    for name, default in run_experiment.__kwdefaults__.items():
        assert getattr(options, name) == default, name


@pytest.mark.parametrize(
    "parameters",
    [
        {"streams": 2, "codec": "h264,vp9", "backend": "cpu", "faults": "slow_stage"},
        {"input": "", "engines": "frames,runtime", "faults": "queue_backs_up", "gpu": 0},
    ],
    ids=["made", "own"],
)
def test_the_notebook_answers_its_question(
    tmp_path: Path, clips: list[Path], parameters: dict[str, Any]
) -> None:
    run = tmp_path / "run"
    if "input" in parameters:
        parameters["input"] = ",".join(map(str, clips))
    given = {"run": str(run), "seconds": 2.0, "deadline_ms": 60.0, **parameters}
    executed = notebooks.execute(NOTEBOOK, given)
    printed = "".join(
        output.text
        for cell in executed.cells
        for output in cell.get("outputs", [])
        if output.output_type == "stream"
    )
    recorded = vl.open_run(run)
    assert str(vl.explain_late(recorded)) in printed
    assert "planted faults were found" in printed
    asked = recorded.manifest.parameters["experiment"]
    assert asked["engines"] == parameters.get("engines", "frames,gpu,runtime").split(",")
    shown = json.dumps([cell.get("outputs", []) for cell in executed.cells])
    assert shown.count("vidlab-chart") >= 4
    assert parameters["faults"] in shown


# --- what is asked for ----------------------------------------------------------


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"engines": "runtime"}, "without the engine frames"),
        ({"engines": ""}, "without the engine frames"),
        ({"engines": "frames,sonar"}, "engines: there is no 'sonar'; there are frames, gpu"),
        ({"faults": ["slow_stage", "gremlins"]}, "faults: there is no 'gremlins'"),
        ({"codec": "h264,cinepak"}, "codec: there is no 'cinepak'; there are h264, hevc"),
        ({"streams": 0}, "streams is a whole number above 0, not 0"),
        ({"streams": 1.5}, "streams is a whole number above 0, not 1.5"),
        ({"seconds": -1}, "seconds is a number above 0, not -1"),
        ({"seconds": "8"}, "seconds is a number above 0, not '8'"),
        ({"deadline_ms": float("inf")}, "deadline_ms is a number above 0, not inf"),
        ({"backend": "tpu"}, "no backend 'tpu': there are auto, cpu, hostcuda, cuda"),
        ({"backend": "cpu", "gpu": 0}, "the backend cpu has no GPU"),
        ({"backend": "cpu", "faults": "leak"}, "what leaks is GPU memory, and there is none"),
        ({"gpu": -1}, "gpu is a device index such as 0, not -1"),
        ({"gpu": "0"}, "gpu is a device index such as 0, not '0'"),
        ({"input": "a.mp4", "codec": "av1"}, "your own input has its own"),
        ({"input": "a.mp4", "faults": "all"}, "corrupt_packets is planted in clips that are made"),
        ({"input": "missing.mp4", "backend": "cpu"}, "there is no file missing.mp4"),
    ],
)
def test_nonsense_is_refused(
    parameters: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError) as refused:
        run_experiment(**parameters)
    assert message in str(refused.value)
    assert list(tmp_path.iterdir()) == []  # no clip, no run


def test_lists_are_text_or_lists(clips: list[Path]) -> None:
    for given in (clips, [str(clip) for clip in clips], ",".join(map(str, clips))):
        setup = set_up(given, backend="cpu", engines=["frames"], faults=())
        assert [source.path for source in setup.sources] == clips
    comma = clips[0].with_name("a,b.mp4")
    comma.hardlink_to(clips[0])
    for one in (comma, str(comma)):
        (source,) = set_up(one, backend="cpu").sources
        assert (source.path, source.stream_id, source.codec) == (comma, "a,b", "h264")
    everything = set_up(clips, backend="cpu", engines="all")
    names = [engine.name for engine in everything.engines]
    assert names == ["frames", "kernel_events", "runtime", "profiles"]


def test_the_usual_deadline_is_that_of_the_clips(
    clips: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "deadline_ms" not in set_up(clips, backend="cpu").parameters
    monkeypatch.setattr(setups, "CLIPS", SMALL)
    assert set_up(streams=1, backend="cpu").parameters["deadline_ms"] == 200
    assert set_up(streams=8, backend="cpu").parameters["deadline_ms"] == 500  # 10/s
    assert set_up(clips, backend="cpu", deadline_ms=33).parameters["deadline_ms"] == 33


def test_many_streams_have_fewer_frames_a_second_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    made = {count: sources.made(count, clips=SMALL) for count in (3, 4, 100)}
    rates = {count: {int(one.rate) for one in ones} for count, ones in made.items()}
    assert rates == {3: {25}, 4: {20}, 100: {1}}


def test_clips_are_as_long_as_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    made = sources.made(3, 1.2, SMALL, corrupt=["cam-2"])
    assert [(one.stream_id, one.codec, one.frame_count) for one in made] == [
        ("cam-1", "h264", 30),
        ("cam-2", "vp9", 30),
        ("cam-3", "h264", 30),
    ]
    assert made[1].path.name.startswith("other-corrupt-")
    assert made[0].path == made[2].path


@pytest.mark.parametrize(
    ("seconds", "corrupt"), [(None, (61, 62, 63)), (5, (61, 62, 63)), (2, (30, 31, 32))]
)
def test_corrupt_packets_are_within_what_is_played(
    seconds: float | None, corrupt: tuple[int, ...]
) -> None:
    assert sources.corrupted(CLIPS[0], seconds).corrupt == corrupt


def test_each_kind_of_fault_is_planted_in_as_many_streams_as_there_are() -> None:
    def streams(*codecs: str) -> list[Source]:
        return [
            Source(f"cam-{number}", Path("clip.mp4"), codec, Fraction(25), 200)
            for number, codec in enumerate(codecs, 1)
        ]

    eight = planting.planted(planting.KINDS, streams(*("h264", "hevc", "av1", "vp9") * 2))
    assert [fault.kind for fault in eight[:5]] == list(planting.KINDS[:5])
    assert (eight[0].codec, eight[1].stream_id, eight[2].stream_id) == ("av1", "cam-5", "cam-4")
    assert [fault.holder for fault in eight[5:]] == list(uploads.MEMORIES)
    one = planting.planted(planting.KINDS, streams("vp9"))
    assert (one[0].codec, one[1].stream_id, one[2].stream_id) == ("vp9", "cam-1", "cam-1")
    assert [fault.codec for fault in one[5:]] == ["vp9"]
    # None that strikes all streams does so while another does.
    times = [(fault.begins_s, fault.ends_s) for fault in one if fault.ends_s is not None]
    assert all(end <= begin for (_, end), (begin, _) in itertools.pairwise(times))
    assert planting.planted([], streams("h264")) == []


@pytest.mark.needs("hostcuda")
def test_backends() -> None:
    assert backends.ready("hostcuda") == ("host memory (no GPU)", "")
    assert backends.ready("auto", 1) == ("host memory (no GPU)", "")
    for backend in ("auto", "hostcuda"):
        with pytest.raises(InputError, match="there is no GPU 7: there are 2"):
            backends.ready(backend, 7)
    with pytest.raises(InputError, match="on host memory in this process"):
        backends.ready("cuda")


def test_without_cupy_there_is_no_gpu_memory_unless_it_is_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def missing() -> str:
        raise VidlabError("no C compiler: apt install gcc")

    monkeypatch.setattr(backends, "device", missing)
    assert backends.ready("auto") == (
        None,
        "GPU memory was left out: no C compiler: apt install gcc",
    )
    with pytest.raises(InputError, match="the backend auto does not work here: no C compiler"):
        backends.ready("auto", 0)
