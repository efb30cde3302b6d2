"""Rules for labels in a recording: in its files, in its child processes, in what it says."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import textwrap
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from vidlab import labelsets
from vidlab.analysis import labelcosts
from vidlab.capture import propagation
from vidlab.errors import InputError
from vidlab.labelrules import REDACTED, LabelRules, bucket_of
from vidlab.labelsets import labels
from vidlab.recording import join, record, record_children
from vidlab.runs.manifest import Manifest
from vidlab.runs.run import open_run

#: In no file of a run, in whatever form it is written down.
SECRET = "Äda of 7 Elm"


def written_down(run: Path, secret: str = SECRET) -> list[str]:
    """The files of a run that have this text in them."""
    forms = {secret.encode(), json.dumps(secret)[1:-1].encode()}
    files = [path for path in run.rglob("*") if path.is_file()]
    assert files
    found = []
    for path in files:
        with contextlib.suppress(FileNotFoundError):  # a block that is written by now
            if any(form in path.read_bytes() for form in forms):
                found.append(path.name)
    return found


def counted(run: Path, key: str) -> Counter[str]:
    """How many rows of `ffmpeg_frames` have which value of a label."""
    rows = open_run(run).scan("ffmpeg_frames").collect()
    return Counter(rows[key].cast(str).to_list())


def rows_of(run: Path, table: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = open_run(run).scan(table).sort("t_ns").collect().to_dicts()
    return found


def test_ten_thousand_values_fold_and_every_row_is_counted(tmp_path: Path) -> None:
    run = tmp_path / "run"
    before = len(labelsets._sets)
    with record(run, engines=[]) as recording:
        for n in range(10_000):
            with labels(session=f"s{n}"):
                recording.writer.row("ffmpeg_frames", frame_number=n)
    assert len(labelsets._sets) <= before + 500 + 64
    found = counted(run, "session")
    assert found.total() == 10_000
    assert len(found) == 500 + 64
    assert {found[f"s{n}"] for n in range(500)} == {1}
    assert found[bucket_of("s9999")] > 50

    rules = rows_of(run, "label_rules")
    # The first, at each doubling, and at the end.
    assert [row["folded"] for row in rows_until(rules, 9_000)] == [2**n for n in range(14)]
    assert (rules[-1]["key"], rules[-1]["rule"], rules[-1]["limit"]) == ("session", "budget", 500)
    assert (rules[-1]["values"], rules[-1]["buckets"]) == (500, 64)
    assert 9_400 < rules[-1]["folded"] <= 9_500
    (finding,) = (row for row in rows_of(run, "findings") if row["kind"] == "labels_folded")
    assert "'session' has more than 500 distinct values" in finding["message"]
    assert "budgets={'session': 2000}" in finding["message"]


def rows_until(rows: list[dict[str, Any]], folded: int) -> list[dict[str, Any]]:
    return [row for row in rows if row["folded"] < folded]


@pytest.mark.parametrize("rule", ["redact", "drop"])
def test_nothing_redacted_is_in_any_file(tmp_path: Path, rule: str) -> None:
    run = tmp_path / "run"
    rules = LabelRules(**{rule: ["viewer", "home"]})
    derive = {"home": lambda known: SECRET, "copied": lambda known: known["viewer"]}
    with labels(viewer=SECRET):  # known, and current, before
        with record(run, engines=[], derive=derive, label_rules=rules) as recording:
            recording.writer.row("ffmpeg_frames")
            text = propagation.labels_as_text()
            with labels(viewer=SECRET + "!", site="north"):
                recording.writer.row("ffmpeg_frames")
                recording.writer.finding("seen", "something", **labelsets.get(1).values)
            recording.writer._write_what_there_is()
            assert written_down(run) == []
        assert labelsets.get(labelsets.current.get()).values == {"viewer": SECRET}
    assert SECRET not in json.loads(text)[0].values()
    assert written_down(run) == []
    rows = rows_of(run, "ffmpeg_frames")
    assert len(rows) == 2
    if rule == "redact":
        assert {(row["viewer"], row["home"]) for row in rows} == {(REDACTED, REDACTED)}
        assert rows[1]["copied"] == REDACTED
    else:
        assert not {"viewer", "home"} & rows[0].keys()
    folded = {(row["key"], row["rule"]): row["folded"] for row in rows_of(run, "label_rules")}
    assert folded == {("viewer", rule): 1, ("home", rule): 1}


def test_a_redacted_value_is_found_without_the_rule(tmp_path: Path) -> None:
    """What the tests above look for would be there."""
    with record(tmp_path / "run", engines=[]) as recording, labels(viewer=SECRET):
        recording.writer.row("ffmpeg_frames")
        assert written_down(tmp_path / "run") == ["0001-labels.jsonl"]
    assert "labels.parquet" in written_down(tmp_path / "run")


CHILD = """
import os, sys
from vidlab import labelsets, recording
from vidlab.labelsets import labels
print(os.environ.get("VIDLAB_LABELS", ""))
part = recording._active
with labels(viewer=sys.argv[1] + " too", session=sys.argv[2]):
    part.writer.row("ffmpeg_frames")
with labels(session="second"):
    part.writer.row("ffmpeg_frames")
if sys.argv[3] == "kill":
    part.writer._write_what_there_is()
    os.kill(os.getpid(), 9)
"""


@pytest.mark.parametrize("how", ["end", "kill"])
def test_child_processes_follow_the_rules(tmp_path: Path, how: str) -> None:
    run = tmp_path / "run"
    rules = LabelRules(redact=["viewer"], budgets={"session": 1})
    # Not in the program's arguments: these are in the manifest.
    program = CHILD.replace("sys.argv[1]", ascii(SECRET))
    with record_children(run, engines=[], label_rules=rules), labels(viewer=SECRET):
        child = subprocess.run(
            [sys.executable, "-c", program, "", "first", how], capture_output=True, text=True
        )
        assert written_down(run) == []
    assert child.returncode == (-signal.SIGKILL if how == "kill" else 0), child.stderr
    assert json.loads(child.stdout) == [{"viewer": REDACTED}, 1.0]
    assert written_down(run) == []
    rows = rows_of(run, "ffmpeg_frames")
    assert [(row["viewer"], row["session"]) for row in rows] == [
        (REDACTED, "first"),
        (REDACTED, bucket_of("second")),
    ]
    assert LabelRules(**Manifest.read(run).label_rules) == rules
    pids = {row["pid"] for row in rows_of(run, "label_rules") if row["key"] == "session"}
    assert pids == {rows[0]["pid"]}


def test_a_forked_child_follows_the_rules(tmp_path: Path) -> None:
    program = f"""
        import os
        from vidlab.labelrules import LabelRules
        from vidlab.labelsets import labels
        from vidlab.recording import record
        rules = LabelRules(redact=["viewer"], budgets={{"session": 1}})
        with record({str(tmp_path / "run")!r}, engines=[], label_rules=rules) as recording:
            with labels(session="first"):
                recording.writer.row("ffmpeg_frames")
            child = os.fork()
            with labels(viewer={SECRET!r}, session=f"s{{child > 0}}"):
                recording.writer.row("ffmpeg_frames")
            if not child:
                recording.stop()
                os._exit(0)
            os.waitpid(child, 0)
        """
    subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=True)
    run = tmp_path / "run"
    assert written_down(run) == []
    rows = rows_of(run, "ffmpeg_frames")
    expected = {"first", bucket_of("sTrue"), bucket_of("sFalse")}
    assert {row["session"] for row in rows} == expected
    assert len({row["pid"] for row in rows}) == 2
    told = labelcosts.rules(open_run(run))
    assert told.select("key", "rule", "folded").rows() == [
        *[("session", "budget", 1)] * 2,
        *[("viewer", "redact", 1)] * 2,
    ]


def test_rules_that_a_child_does_not_understand_keep_it_out(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with record_children(run, engines=[]):
        manifest = json.loads((run / "manifest.json").read_text())
        manifest["label_rules"]["forget"] = ["viewer"]
        (run / "manifest.json").write_text(json.dumps(manifest))
        program = "from vidlab import recording; assert recording._active is None"
        subprocess.run([sys.executable, "-c", program], check=True)
        assert len(list((run / "segments").glob("*.process"))) == 1


def test_a_recording_that_fails_leaves_no_rules(tmp_path: Path) -> None:
    class Failing:
        name = "failing"

        def parameters(self) -> dict[str, Any]:
            return {}

        def start(self, writer: object) -> None:
            raise InputError("no")

        def stop(self) -> None:
            pass

    with labels(viewer="Bob"):
        with pytest.raises(InputError):
            record(tmp_path / "run", engines=[Failing()], label_rules=LabelRules(drop=["viewer"]))
        assert labelsets.get(labelsets.current.get()).values == {"viewer": "Bob"}
    assert join() is None
    assert "VIDLAB_RUN" not in os.environ
