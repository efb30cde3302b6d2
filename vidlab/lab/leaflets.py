"""The README of a recorded run: what is in it, and the one command that makes it anew."""

from __future__ import annotations

import textwrap
from pathlib import Path

import polars as pl

from ..capture.gpu import hostcuda
from ..runs.run import Run, open_run

#: The file's name. Its first line, after the `#`, is the run's name and what it is.
FILE_NAME = "README.md"

_HOST_MEMORY = "CuPy had host memory (`vl.hostcuda`)"


def write_leaflet(path: Path, about: str, story: str = "") -> None:
    """Write the README of the run in this folder.

    Parameters
    ----------
    path : Path
        The run's folder.
    about : str
        What it is, in a line.
    story : str
        What was planted in it, unless the run's manifest says so.
    """
    run = open_run(path)
    manifest = run.manifest
    assert manifest.ended is not None
    seconds = (manifest.ended.monotonic_ns - manifest.started.monotonic_ns) / 1e9
    engines = ", ".join(engine.name for engine in manifest.engines)
    wrong = _planted(run) or [_wrapped(line) for line in (story or "Nothing.").splitlines()]
    lines = [
        f"# {path.name}: {about}",
        "",
        "Made by",
        "",
        f"    python -m vidlab.lab.recordings {path.name} datasets",
        "",
        _wrapped(
            f"on a machine of {manifest.host['cpus']} CPUs{_device(run)}, with Python "
            f"{manifest.versions['python']}, within {seconds:.0f} s, by the engines {engines}."
        ),
        "",
        "What is wrong in it, on purpose:",
        "",
        *wrong,
        "",
        "| table | rows | bytes |",
        "| --- | ---: | ---: |",
        *(
            f"| {name} | {facts.rows:,} | {facts.bytes:,} |"
            for name, facts in manifest.tables.items()
        ),
        "",
        "The names of the machine and of its folders were taken out. Licence: MIT, as vidlab's.",
        "",
    ]
    (path / FILE_NAME).write_text("\n".join(lines), encoding="utf-8")


def _wrapped(text: str) -> str:
    return textwrap.fill(text, 100, subsequent_indent="  " if text.startswith("- ") else "")


def _device(run: Run) -> str:
    """Return what CuPy worked on, in words; '' if it was not used."""
    if "allocations" not in run.tables():
        return ""
    names = run.scan("gpu_samples").select(pl.col("device_name").cast(pl.String)).collect()
    known = set(names["device_name"].drop_nulls()) - {hostcuda.DEVICE_NAME}
    return f", with {', '.join(known)}" if known else f", without a GPU: {_HOST_MEMORY}"


def _planted(run: Run) -> list[str]:
    """Return a line for each fault that was planted."""
    lines = []
    for fault in run.manifest.parameters.get("planted", []):
        where = [str(fault[name]) for name in ("stream_id", "codec", "stage") if name in fault]
        when = [f"from {fault['begins_s']:g} s on"] if fault.get("begins_s") else []
        if "ends_s" in fault:
            when = [f"from {fault['begins_s']:g} to {fault['ends_s']:g} s"]
        held = [f"held by a {fault['holder']}"] if "holder" in fault else []
        lines.append(f"- `{fault['kind']}`: {', '.join([*where, *when, *held]) or 'all streams'}")
    return lines
