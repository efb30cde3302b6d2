"""The manifest of a run: what was recorded, where, by what, and what is missing.

`manifest.json` is the one file that makes a directory a run. It is written when
a recording starts, with all that a child process needs in order to join, and
again when the recording ends and when the run is compacted or recovered; only
ever whole, under a temporary name that is then renamed.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..clock import Anchor
from ..errors import RunError, SchemaError
from ..schema import RUN_SCHEMA

FILE_NAME = "manifest.json"

#: Where a run keeps what is not compacted yet.
SEGMENTS = "segments"

#: Being recorded, or killed meanwhile; finished by the recording; finished by `recover`.
RECORDING, COMPLETE, RECOVERED = STATES = ("recording", "complete", "recovered")


@dataclass(frozen=True)
class EngineFacts:
    """A capture engine of the recording: what a child process rebuilds it from."""

    name: str
    parameters: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class TableFacts:
    """What a table holds: rows, rows lost, rows let go to stay in bounds, bytes at rest."""

    rows: int
    lost: int = 0
    let_go: int = 0
    bytes: int = 0


@dataclass(frozen=True)
class ProcessFacts:
    """A process that wrote into the run: `index` is its number in frame and span ids."""

    index: int
    pid: int
    parent: int
    argv: tuple[str, ...]
    started: Anchor


@dataclass(frozen=True)
class Manifest:
    """What a run says about itself.

    Attributes
    ----------
    run_id : str
        The run's name, unique among all runs.
    started, ended : Anchor
        Both clocks at the start and the end of the recording; `ended` is None
        while it goes on, and for ever if it was killed.
    state : str
        One of `STATES`.
    host, versions : Mapping[str, Any], Mapping[str, str]
        The machine, and the packages that took part.
    engines : tuple[EngineFacts, ...]
        The capture engines, in the order in which they were started.
    parameters : Mapping[str, Any]
        The user's own, such as `deadline_ms`.
    limits : Mapping[str, float]
        What bounds the recording: `max_bytes`, `keep_seconds`.
    derive : Mapping[str, str]
        Labels that a function of the user derives: its "module:name".
    label_rules : Mapping[str, Any]
        What is done to label values before they are written: `LabelRules.parameters`.
    tables : Mapping[str, TableFacts]
        Per table, once it is compacted.
    processes : tuple[ProcessFacts, ...]
        Who wrote into it, once it has ended.
    notes : tuple[str, ...]
        What a reader should know, in sentences.
    schema : str
        The format's name and version.
    """

    run_id: str
    started: Anchor
    ended: Anchor | None = None
    state: str = RECORDING
    host: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    engines: tuple[EngineFacts, ...] = ()
    parameters: Mapping[str, Any] = field(default_factory=dict)
    limits: Mapping[str, float] = field(default_factory=dict)
    derive: Mapping[str, str] = field(default_factory=dict)
    label_rules: Mapping[str, Any] = field(default_factory=dict)
    tables: Mapping[str, TableFacts] = field(default_factory=dict)
    processes: tuple[ProcessFacts, ...] = ()
    notes: tuple[str, ...] = ()
    schema: str = RUN_SCHEMA

    @classmethod
    def read(cls, run: Path) -> Manifest:
        """Return the manifest of the run in this directory.

        Raises
        ------
        SchemaError
            If a newer vidlab wrote it.
        RunError
            If there is none, or it is not a manifest.
        """
        return cls.from_json(_object(run), run / FILE_NAME)

    @classmethod
    def from_json(cls, values: Mapping[str, Any], where: Path) -> Manifest:
        """Return the manifest that these JSON values describe; `where` is for messages."""
        check_schema(values.get("schema"), where)
        known = {f.name for f in dataclasses.fields(cls)}
        plain = {name: value for name, value in values.items() if name in known}
        try:
            manifest = cls(
                **{
                    **plain,
                    "started": Anchor(**values["started"]),
                    "ended": Anchor(**values["ended"]) if values.get("ended") else None,
                    "engines": tuple(
                        EngineFacts(e["name"], dict(e["parameters"]))
                        for e in values.get("engines", ())
                    ),
                    "tables": {
                        name: _known(TableFacts, facts)
                        for name, facts in values.get("tables", {}).items()
                    },
                    "processes": tuple(process(p) for p in values.get("processes", ())),
                    "notes": tuple(str(note) for note in values.get("notes", ())),
                }
            )
            if manifest.state not in STATES:
                raise ValueError(f"state is {manifest.state!r}")
            for name in ("host", "versions", "parameters", "limits", "derive", "label_rules"):
                if not isinstance(getattr(manifest, name), dict):
                    raise TypeError(f"{name} is not an object")
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise RunError(
                f"{where} is not a run's manifest ({type(error).__name__}: {error}); "
                "if the run matters, put back a copy of the file from the same run"
            ) from error
        return manifest

    def write(self, run: Path) -> None:
        """Write it into this directory: as a whole or, if that fails with OSError, not at all."""
        values = {"schema": self.schema, **dataclasses.asdict(self)}
        write_whole(run / FILE_NAME, json.dumps(values, indent=2, ensure_ascii=False) + "\n")


def process(values: Mapping[str, Any]) -> ProcessFacts:
    """Return the facts of a process from their JSON values."""
    return ProcessFacts(
        int(values["index"]),
        int(values["pid"]),
        int(values["parent"]),
        tuple(str(argument) for argument in values["argv"]),
        Anchor(**values["started"]),
    )


def is_run(path: Path) -> bool:
    """Return whether this directory has a vidlab manifest, of whatever version."""
    try:
        return _version(_object(path).get("schema")) is not None
    except RunError:
        return False


def check_schema(schema: object, where: Path) -> None:
    """Raise SchemaError unless this version of vidlab reads this schema."""
    found, ours = _version(schema), _version(RUN_SCHEMA)
    if found is None:
        raise SchemaError(
            f"{where} has the schema {schema!r}; a vidlab run has {RUN_SCHEMA!r}: "
            "this directory is not a run, or its manifest is damaged"
        )
    assert ours is not None
    if found > ours:
        raise SchemaError(
            f"{where} has the schema {schema!r}, which is newer than {RUN_SCHEMA!r}: "
            "upgrade to read it (pip install --upgrade vidlab)"
        )


def write_whole(path: Path, text: str) -> None:
    """Write a small file so that it is there as a whole or, after an OSError, as before."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def _object(run: Path) -> dict[str, Any]:
    """Return the manifest's JSON object."""
    where = run / FILE_NAME
    try:
        values = json.loads(where.read_bytes())
    except FileNotFoundError:
        what = "has no manifest.json" if run.is_dir() else "does not exist"
        raise RunError(f"{run} {what}: give the directory of a run, such as runs/demo") from None
    except NotADirectoryError:
        raise RunError(f"{run} is a file: give the directory of a run, such as runs/demo") from None
    except OSError as error:
        raise RunError(f"{where} cannot be read ({error.strerror}): check its access") from error
    except ValueError as error:
        raise RunError(
            f"{where} is not JSON ({error}); if the run matters, put back a copy of the file "
            "from the same run"
        ) from error
    if not isinstance(values, dict):
        raise RunError(f"{where} holds no JSON object: this directory is not a run")
    return values


def _version(schema: object) -> int | None:
    """Return the major version in "vidlab.run/1"; None if it names something else."""
    name, _, version = str(schema).partition("/")
    major = version.partition(".")[0]
    return int(major) if name == RUN_SCHEMA.partition("/")[0] and major.isdecimal() else None


def _known(kind: type[TableFacts], values: Mapping[str, Any]) -> TableFacts:
    """Return the facts, without what a newer minor version may have added."""
    return kind(**{f.name: values[f.name] for f in dataclasses.fields(kind) if f.name in values})
