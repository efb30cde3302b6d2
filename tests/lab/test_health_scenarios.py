"""The classic faults of a Python service: each is found by its name, and none in its twin."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import polars as pl
import pytest

import vidlab as vl
from vidlab.analysis import health
from vidlab.errors import InputError
from vidlab.lab import health_programs
from vidlab.lab.health_scenarios import SCENARIOS, Scenario, record_scenarios, thresholds
from vidlab.lab.health_tasks import LOST_VIEWER

#: Scenarios that are recorded at once: those that do not mind each other.
TOGETHER = (
    ("unbounded_queue", "context_variable_growth", "task_never_ends", "cache_growth"),
    ("native_gil_hog",),
    ("python_gil_hog",),
    ("slow_generation_2",),
)
HEALTHY_TOGETHER = (
    (*TOGETHER[0], "slow_generation_2"),
    ("native_gil_hog",),
    ("python_gil_hog",),
)

#: How long it is recorded. What grows has to be seen some times: it is looked at each 0.2 s.
SECONDS, SECONDS_OF_GROWTH = 1.0, 2.0

#: How long threads and loops wait for a CPU is the machine's, and how malloc's memory is
#: taken up is of all tests before: the programs are judged by these.
KINDS = {scenario.kind for scenario in SCENARIOS.values()}

#: Those that other programs can bring about or hide, by taking the CPUs from who has the GIL;
#: and what is said of a run in which they do.
TIMED, NO_CPU = ("gil_hog", "slow_generation_2"), "scheduling_delay"

Verdicts = Callable[[str, bool], pl.DataFrame]


@pytest.fixture(scope="module")
def verdicts(tmp_path_factory: pytest.TempPathFactory) -> Verdicts:
    """Returns the verdicts on a run in which this scenario is, faulty or healthy."""

    def once(names: tuple[str, ...], healthy: bool, seconds: float) -> pl.DataFrame:
        path = tmp_path_factory.mktemp("health") / "run"
        if len(names) > 1:
            record_scenarios(path, names, seconds, healthy)
        else:
            scenario = SCENARIOS[names[0]]
            (scenario.run_healthy if healthy else scenario.run)(path, seconds)
        run = vl.open_run(path)
        kinds = {*KINDS, NO_CPU}
        return health.verdicts(run, thresholds(seconds)).filter(pl.col("kind").is_in(kinds))

    @cache
    def of(names: tuple[str, ...], healthy: bool) -> pl.DataFrame:
        """Record it again, twice at most and for longer, if other programs have the CPUs."""
        seconds = SECONDS_OF_GROWTH if len(names) > 1 else SECONDS
        for longer in (1, 2, 4):
            found = once(names, healthy, longer * seconds)
            calm = found.filter(pl.col("kind") != NO_CPU)  # nothing is excused yet
            again = any(not_as_planted(SCENARIOS[name], calm, healthy) for name in names)
            if not again and waiting(found) in ([], [f"viewer-{LOST_VIEWER}"]):
                break
        return found

    def on(name: str, healthy: bool) -> pl.DataFrame:
        groups = HEALTHY_TOGETHER if healthy else TOGETHER
        return of(next(group for group in groups if name in group), healthy)

    return on


def not_as_planted(scenario: Scenario, found: pl.DataFrame, healthy: bool) -> list[str]:
    """Return what is missing in the verdicts, or too much if the program is healthy.

    In a run whose threads waited for CPUs nobody can tell who holds the GIL: whoever has it
    waits for one, too.
    """
    busy = NO_CPU in found["kind"]
    found = found.filter(pl.col("kind") != NO_CPU)
    named = found.filter(pl.col("kind") == scenario.kind)["subject"].to_list()
    if healthy:
        return found.filter(~pl.col("kind").is_in(TIMED if busy else ()))["subject"].to_list()
    if busy and scenario.kind == "gil_hog":
        return []
    return [name for name in scenario.subjects if not any(name in subject for subject in named)]


def waiting(found: pl.DataFrame) -> list[str]:
    """The names of the tasks that are said never to end."""
    evidence = found.filter(pl.col("kind") == "task_never_ends")["evidence"]
    names = pl.Struct({"names": pl.List(pl.String)})
    return [name for row in evidence.str.json_decode(names) for name in row["names"]]


@pytest.mark.parametrize("scenario", SCENARIOS.values(), ids=lambda scenario: scenario.name)
class TestScenario:
    def test_its_fault_is_found_by_name(self, scenario: Scenario, verdicts: Verdicts) -> None:
        found = verdicts(scenario.name, False)
        assert not_as_planted(scenario, found, healthy=False) == [], found.rows()

    def test_its_healthy_twin_has_none(self, scenario: Scenario, verdicts: Verdicts) -> None:
        found = verdicts(scenario.name, True)
        assert not_as_planted(scenario, found, healthy=True) == [], found.rows()


def test_the_task_that_never_ends_is_told_from_those_like_it(verdicts: Verdicts) -> None:
    assert waiting(verdicts("task_never_ends", False)) == [f"viewer-{LOST_VIEWER}"]


def test_every_scenario_is_recorded_and_says_what_is_wrong() -> None:
    for groups in (TOGETHER, HEALTHY_TOGETHER):
        assert sorted(name for group in groups for name in group) == sorted(SCENARIOS)
    for scenario in SCENARIOS.values():
        assert scenario.about.endswith(".")


@pytest.mark.parametrize(
    ("names", "seconds", "message"),
    [
        (["cache"], 2.0, "there is no scenario 'cache': choose among unbounded_queue, "),
        ([], 2.0, "which scenarios are to be recorded\\? Choose among unbounded_queue, "),
        (["cache_growth"], 0.5, "seconds is 0.5: give at least 1"),
    ],
)
def test_a_mistake_is_told(names: list[str], seconds: float, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        record_scenarios(tmp_path / "run", names, seconds)
    assert not (tmp_path / "run").exists()


def test_a_program_that_fails_says_why_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def delivered(frame: object) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr(health_programs, "deliver", delivered)
    with pytest.raises(OSError, match="the disk is full"):
        SCENARIOS["cache_growth"].run(tmp_path / "run", seconds=1.0)
    assert not health_programs.THUMBNAILS
    assert vl.open_run(tmp_path / "run").state == "complete"
