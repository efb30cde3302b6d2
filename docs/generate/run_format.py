"""The generated part of `run-format.md`: every table of a run, as `vidlab.schema` declares it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import pyarrow as pa

from vidlab import schema
from vidlab.capture.ebpf.plan import Plan
from vidlab.runs import cube

from .kernel_columns import EVERYWHERE, MEANINGS

#: Tables by what they are about: the modules of `vidlab.schema`, and the probe sets.
_SECTIONS = {
    "Frames and spans": schema.video,
    "GPU memory": schema.gpu,
    "Runtime health": schema.runtime,
    "Profiles": schema.profiling,
    "What was noticed, and what was sampled": schema.health,
    "Kernel events": schema.kernel,
}

#: The probe sets whose tables are listed: all that come with vidlab.
PROBE_SETS = (
    "sched", "libav", "cuda", "nvcodec", "tcp", "cpython", "cpython_calls", "faults", "xid",
)  # fmt: skip

#: Tables that are gone when a run is finished.
_NOT_KEPT = ("frame_events", "gpu_times")

#: The manifest's fields: JSON type and meaning. A test holds it to `runs.manifest.Manifest`.
MANIFEST = {
    "schema": ("string", "the format's name and version"),
    "run_id": ("string", "the run's name, unique among all runs"),
    "started": ("object", "both clocks at the start"),
    "ended": ("object", "both clocks at the end; null while it goes on, and if it was killed"),
    "state": ("string", "recording; complete; recovered: finished by `vidlab recover`"),
    "host": ("object", "the machine: name, system, CPUs, memory"),
    "versions": ("object", "the packages that took part, and Python's"),
    "engines": ("array", "the engines, in the order in which they were started"),
    "parameters": ("object", "the user's own, such as `deadline_ms`"),
    "limits": ("object", "what bounds the recording: `max_bytes`, `keep_seconds`"),
    "derive": ("object", "labels that a function of the user derives: its `module:name`"),
    "label_rules": ("object", "what was done to label values before they were written"),
    "tables": ("object", "what each table holds, once it is a Parquet file"),
    "processes": ("array", "the processes that wrote into it, once it has ended"),
    "notes": ("array", "what a reader should know, in sentences"),
}

_COMMON = {column.name for column in (*schema.COMMON, *schema.LABELS)}


def declared_tables() -> dict[str, schema.Table]:
    """Return the tables that the probe sets declare, by name."""
    layouts = Plan(list(PROBE_SETS)).layouts
    return {name: layout.table for name, layout in sorted(layouts.items())}


def tables() -> str:
    """Return the description of all tables, as Markdown."""
    parts = [
        "Every event table begins with the first three of these columns and ends with the others. "
        "A run in which frames were sampled has `sample_rate`, and one with further labels a "
        "column for each, after them.\n",
        _listed((*schema.COMMON, *schema.LABELS)),
    ]
    for title, module in _SECTIONS.items():
        parts.append(f"\n### {title}\n")
        parts += [_table(t) for t in module.TABLES if t.name not in _NOT_KEPT]
    parts.append(
        "\n### What the probe sets record\n\n"
        "Tables of kernel events are declared by the recording, and their files carry the "
        "declaration. These are those of the sets that come with vidlab. All have "
        + ", ".join(f"`{column.name}` ({column.meaning})" for column in schema.kernel.BASE)
        + ".\n"
    )
    known = declared_tables()
    parts += [_declared(known[name]) for name in MEANINGS]
    return "\n".join(parts)


def manifest() -> str:
    """Return the manifest's fields, as Markdown."""
    rows = ((f"`{name}`", type, meaning) for name, (type, meaning) in MANIFEST.items())
    return _rows(("field", "type", "meaning"), rows)


def cube_columns() -> str:
    """Return the columns of the cube, as Markdown."""
    types = {name: str(type) for name, type in cube.SCHEMA.items()}
    return ", ".join(f"`{name}` ({type})" for name, type in types.items())


def own_columns(table: schema.Table) -> list[schema.Column]:
    """Return the columns that a table has beside those that all of its kind have."""
    if not table.event:
        return list(table.columns)
    base = {column.name for column in schema.kernel.BASE} if table.declared else set()
    return [column for column in table.columns if column.name not in _COMMON | base]


def _table(table: schema.Table) -> str:
    side = "" if table.event else " It is a side table: it has these columns only."
    listed = _listed(own_columns(table))
    return f"#### {table.name}\n\n{_sentence(table.meaning)}{side}\n\n{listed}"


def _declared(table: schema.Table) -> str:
    meaning, columns = MEANINGS[table.name]
    told = [
        dataclasses.replace(column, meaning={**EVERYWHERE, **columns}[column.name])
        for column in own_columns(table)
    ]
    return f"#### {table.name}\n\n{_sentence(meaning)}\n\n{_listed(told)}"


def _listed(columns: Iterable[schema.Column]) -> str:
    return _rows(
        ("column", "type", "unit", "meaning"),
        ((f"`{c.name}`", _arrow(c.type), c.unit, c.meaning) for c in columns),
    )


def _arrow(type: pa.DataType) -> str:
    if type == schema.TEXT:
        return "text"
    if pa.types.is_list(type):
        inside = ", ".join(f"{f.name} {f.type}" for f in type.value_type)
        return f"list of ({inside})"
    return str(type)


def _rows(heading: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [heading, tuple("---" for _ in heading), *rows]
    return "".join(f"| {' | '.join(map(_cell, row))} |\n" for row in lines)


def _cell(text: str) -> str:
    return text.replace("|", r"\|")


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}." if text else ""
