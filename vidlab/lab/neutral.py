"""A finished run made neutral: nothing in it tells on which machine, and where, it was recorded.

Stacks, streams and probes name files. Their folders become what they are to anybody: `src/` is
where vidlab was, `python/lib/python3.11/site-packages/` where packages are installed. The analyses
tell a program's own calls from others by those names, so they stay. The machine's name goes; what
it could do (its CPUs, its memory) stays.
"""

from __future__ import annotations

import re
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

import vidlab

from ..runs.manifest import Manifest
from ..runs.parquet import TableFile
from .clips import cache_folder

#: What the machine is called instead.
HOST = "lab"

Reword = Callable[[str], str]


def neutralise(run: Path, command: tuple[str, ...]) -> None:
    """Rewrite what names files, in all tables and in the manifest of this finished run.

    Parameters
    ----------
    run : Path
        The run's folder.
    command : tuple of str
        The arguments by which the recording program is said to have been started.
    """
    reword = rewording()
    tables = dict(Manifest.read(run).tables)
    for name, facts in tables.items():
        path = run / f"{name}.parquet"
        _rewrite(path, reword)
        tables[name] = replace(facts, bytes=path.stat().st_size)
    manifest = Manifest.read(run)
    first, *others = manifest.processes
    replace(
        manifest,
        host={**manifest.host, "name": HOST, "system": str(manifest.host["system"]).split()[0]},
        tables=tables,
        processes=(
            replace(first, argv=command),
            *(replace(other, argv=tuple(map(reword, other.argv))) for other in others),
        ),
        notes=tuple(map(reword, manifest.notes)),
    ).write(run)


def rewording() -> Reword:
    """Return the function that makes the names of this machine's folders in a text neutral."""
    folders = {
        sys.prefix: "python",
        sys.base_prefix: "python",
        str(cache_folder().absolute()): "clips",
        str(cache_folder()): "clips",
        str(Path.cwd()): "here",
        str(Path.home()): "home",
        str(Path(vidlab.__file__).parents[1]): "src",  # which may be one of those before
    }
    longest_first = sorted(folders, key=len, reverse=True)
    scratch = re.compile(rf"{re.escape(tempfile.gettempdir())}/vidlab-\w+/")

    def reword(text: str) -> str:
        text = scratch.sub("", text)
        for folder in longest_first:
            text = text.replace(f"{folder}/", f"{folders[folder]}/")
        return text

    return reword


def _rewrite(path: Path, reword: Reword) -> None:
    """Rewrite a table's texts; a table without any stays as it is."""
    rows = pq.read_table(path)
    changed = rows
    for place, field in enumerate(rows.schema):
        if "string" in str(field.type):
            values = pa.array(_reworded(rows[field.name].to_pylist(), reword), field.type)
            changed = changed.set_column(place, field, values)
    if changed.equals(rows):
        return
    draft = path.with_suffix(".draft")
    with TableFile(draft, rows.schema) as file:
        file.write(changed)
    draft.replace(path)


def _reworded(value: Any, reword: Reword) -> Any:
    """Return a value of any nesting with its texts reworded."""
    if isinstance(value, str):
        return reword(value)
    if isinstance(value, list):
        return [_reworded(item, reword) for item in value]
    if isinstance(value, dict):
        return {name: _reworded(item, reword) for name, item in value.items()}
    return value
