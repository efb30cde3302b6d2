"""Bring a pprof file into a run of its own: `vidlab import-pprof FILE`."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from .. import labelsets
from ..capture.profiles.tags import LABELS_TAG, SPAN_TAG
from ..clock import Anchor
from ..errors import InputError, RecordingError
from ..formats import pprof
from ..runs import processes
from ..runs.compaction import compact
from ..runs.creation import first_manifest, make_room, unwritable
from ..runs.manifest import COMPLETE, SEGMENTS, EngineFacts, Manifest
from ..runs.run import Run, open_run
from ..runs.writer import RunWriter
from ..schema import TABLES

#: What an imported run's manifest names as its engine.
ENGINE = "pprof"

#: Labels of a sample that are columns of `profile_samples`.
_THREAD_KEYS = ("thread_name", "thread")
_SPAN_KEY = "span"

#: Numbers of the process that was profiled, which nobody knows any more.
_FOREIGN_KEYS = (LABELS_TAG, SPAN_TAG)

#: So many threads have a name of their own.
_MOST_THREADS = 10_000

_RECORD = TABLES["profile_samples"].record
assert _RECORD is not None
_SIZE = _RECORD.size
_pack_into = _RECORD.struct.pack_into


def import_pprof(file: str | Path, path: str | Path, *, overwrite: bool = False) -> Run:
    """Make a run of a pprof file, whoever wrote it, and return the run.

    Its tables are `profile_samples`, with a row for each value of a sample that is not 0,
    and `stacks`. Labels that are text become labels (a key that is no identifier is changed
    into one); `thread_name` and `span`, where they are there, become the columns `thread` and
    `span`. Labels that are numbers, addresses and mappings are left out.

    The run begins when the profile did, on the wall clock; the time within it means nothing.

    Parameters
    ----------
    file : path
        The pprof file, gzip or plain.
    path : path
        The run's directory, new or empty.
    overwrite : bool
        Delete the run that is at `path`. Nothing but a run is ever deleted.

    Raises
    ------
    InputError
        If there is no such file, or it is no pprof profile, or has no samples.
    RecordingError
        If the run cannot be made at `path`.
    """
    source, run = Path(file), Path(path).absolute()
    data = _read(source)
    try:
        samples = pprof.samples(data)
    except pprof.PprofError as error:
        raise InputError(f"{source}: {error}") from error
    if not len(samples.values):
        raise InputError(f"{source} is a pprof profile without samples: there is nothing to import")
    manifest = _manifest(run, source, len(data), samples)
    make_room(run, overwrite)
    try:
        manifest.write(run)
        _write(run, samples, manifest)
        _finish(run, samples, manifest)
        imported = open_run(run)
        if imported.losses:
            raise RecordingError(f"{run} could not hold all samples: is the disk full?")
    except OSError as error:
        shutil.rmtree(run, ignore_errors=True)
        raise RecordingError(unwritable(run, error)) from error
    except BaseException:
        shutil.rmtree(run, ignore_errors=True)
        raise
    return imported


def summary(run: Run) -> str:
    """Return in a line what was imported, for a person.

    Raises
    ------
    InputError
        If the run was not imported from a pprof file.
    """
    facts = next((e.parameters for e in run.manifest.engines if e.name == ENGINE), None)
    if facts is None:
        raise InputError(f"{run.path} was not imported from a pprof file: see vidlab info")
    seconds = facts["duration_ns"] / 1e9
    lasted = f" in {seconds:,.1f} s" if seconds > 0 else ""
    types = ", ".join(facts["sample_types"])
    keys = ", ".join(facts["labels"]) or "none"
    return (
        f"imported {facts['file']}, {facts['samples']:,} "
        f"sample{'s' * (facts['samples'] != 1)} of {types}{lasted}, "
        f"labels {keys}: vidlab report {run.path}"
    )


def profile_name(samples: pprof.Samples) -> str:
    """Return what a profile is called by Pyroscope's names: process_cpu, memory, mutex, …"""
    types = {known.type for known in samples.types}
    if "cpu" in types:
        return "process_cpu"
    if types & {"alloc_space", "inuse_space", "space"}:
        return "memory"
    kind = samples.period_type
    return kind.type if kind is not None and kind.type else samples.types[0].type or "profile"


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except FileNotFoundError:
        raise InputError(f"{file} does not exist: give a pprof file, such as cpu.pprof") from None
    except IsADirectoryError:
        raise InputError(f"{file} is a folder: give a pprof file in it") from None
    except OSError as error:
        raise InputError(f"{file} cannot be read ({error.strerror}): check its access") from error


def _manifest(run: Path, source: Path, size: int, samples: pprof.Samples) -> Manifest:
    keys = {_key(key) for labels in samples.label_sets for key, value in labels if _is_text(value)}
    facts = {
        "file": str(source),
        "size_bytes": size,
        "profile": profile_name(samples),
        "samples": len(samples.values),
        "sample_types": [f"{known.type} ({known.unit})" for known in samples.types],
        "labels": sorted(keys.difference((*_THREAD_KEYS, _SPAN_KEY, *_FOREIGN_KEYS))),
        "period": samples.period,
        "duration_ns": samples.duration_nanos,
        "comments": list(samples.comments),
    }
    manifest = first_manifest(run, (EngineFacts(ENGINE, facts),), None, None, None, None)
    note = f"imported from {source.name}: host and versions are of the machine that imported it"
    if not samples.time_nanos:
        note += "; the file does not tell when it was taken, the times are of the import"
    wall_ns = samples.time_nanos or manifest.started.wall_ns
    started = Anchor(manifest.started.monotonic_ns, wall_ns)
    return replace(manifest, started=started, notes=(note,))


def _write(run: Path, samples: pprof.Samples, manifest: Manifest) -> None:
    writer = RunWriter(run)
    try:
        _write_samples(writer, samples, manifest.started.monotonic_ns)
    finally:
        writer.close()


def _finish(run: Path, samples: pprof.Samples, manifest: Manifest) -> None:
    """Write down when the profile ended, and compact the run."""
    started, lasted_ns = manifest.started, samples.duration_nanos
    ended = Anchor(started.monotonic_ns + lasted_ns, started.wall_ns + lasted_ns)
    facts = processes.facts(run / SEGMENTS)
    replace(manifest, state=COMPLETE, ended=ended, processes=facts).write(run)
    compact(run)


def _write_samples(writer: RunWriter, samples: pprof.Samples, t_ns: int) -> None:
    number = writer.names.number
    profile = number(profile_name(samples))
    kinds = [(number(known.type), number(known.unit)) for known in samples.types]
    known = [stack for stack in samples.stacks if stack]
    numbers = dict(zip(known, writer.stacks(known), strict=True))
    stacks = [numbers.get(stack, 0) for stack in samples.stacks]
    threads: dict[str, int] = {}
    whose = [_whose(labels, threads, writer) for labels in samples.label_sets]
    seen = samples.times_seen()
    rows, columns = samples.values.nonzero()
    buffer, duration_ns = writer.buffer("profile_samples"), samples.duration_nanos
    for column, value, stack, label_set, count in zip(
        columns.tolist(),
        samples.values[rows, columns].tolist(),
        samples.stack[rows].tolist(),
        samples.label_set[rows].tolist(),
        seen[rows].tolist(),
        strict=True,
    ):
        labels, span, thread = whose[label_set]
        position = buffer.position
        if position == buffer.end:
            position = buffer.roll()
        buffer.position = position + _SIZE
        _pack_into(
            *(buffer.view, position, t_ns, duration_ns, value, count, span, 0),
            *(labels, stacks[stack], profile, *kinds[column], thread, 0, 0, 1),
        )


def _whose(
    labels: pprof.Labels, threads: dict[str, int], writer: RunWriter
) -> tuple[int, int, int]:
    """Return the label set, the span and the thread name that a sample's labels tell of."""
    values: dict[str, str] = {}
    thread = span = 0
    for key, value in labels:
        if key in _THREAD_KEYS and _is_text(value):
            thread = _thread(str(value), threads, writer)
        elif key == _SPAN_KEY:
            span = _span(value)
        elif _is_text(value) and key not in _FOREIGN_KEYS:
            values[_key(key)] = str(value)
    return _interned(values), span, thread


def _interned(values: Mapping[str, str]) -> int:
    try:
        return labelsets.intern(values)
    except InputError:  # `gpu` is a device index here, and may be anything elsewhere
        return labelsets.intern(
            {"gpu_name" if key == "gpu" else key: value for key, value in values.items()}
        )


def _thread(name: str, threads: dict[str, int], writer: RunWriter) -> int:
    if name not in threads:
        threads[name] = writer.names.number(
            name if len(threads) < _MOST_THREADS else writer.names.OVERFLOW
        )
    return threads[name]


def _span(value: str | int) -> int:
    """Return the number of a span: decimal, as vidlab writes it; else 0 for none."""
    if isinstance(value, str):
        value = int(value) if value.isdecimal() and len(value) <= 20 else 0
    return value if 0 <= value < 1 << 64 else 0


def _is_text(value: str | int) -> bool:
    return isinstance(value, str)


def _key(key: str) -> str:
    """Return a label's key as an identifier: what cannot be in one becomes a line."""
    changed = "".join(letter if f"_{letter}".isidentifier() else "_" for letter in key)
    return changed if changed.isidentifier() else f"_{changed}"
