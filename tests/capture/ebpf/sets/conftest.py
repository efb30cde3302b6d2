"""Sets in the real kernel: what their programs write, as rows."""

from __future__ import annotations

import contextlib
import os
import shlex
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from vidlab.capture.ebpf.plan import Asked, Plan
from vidlab.capture.ebpf.reading.counters import Counts, Histogram
from vidlab.capture.ebpf.reading.ring import Ring
from vidlab.capture.ebpf.session import Session
from vidlab.capture.gpu import native

Row = dict[str, Any]


class Heard:
    """A session and what came of it."""

    def __init__(self, plan: Plan, session: Session, undo: contextlib.ExitStack) -> None:
        self.plan = plan
        self.session = session
        self._texts = [""]
        self._numbers: dict[str, int] = {}
        self._rings = {
            table: undo.enter_context(
                Ring(map.fd, map.max_entries, plan.layouts[table].dtype, plan.layouts[table].stride)
            )
            for table, map in session.shared.rings.items()
        }

    def rows(self, table: str) -> list[Row]:
        """All rows of a table that were not returned yet, in their order in time."""
        layout, ring = self.plan.layouts[table], self._rings[table]
        view = ring.view(1 << 20)
        columns = {
            name: _plain(column)
            for name, column in layout.columns(view.records, self._number).items()
        }
        ring.advance(view.extent)
        texts = [
            column.name for column in layout.table.columns if pa.types.is_dictionary(column.type)
        ]
        for name in texts:
            if name in columns:
                columns[name] = [self._texts[number] or None for number in columns[name]]
        rows = [
            dict(zip(columns, values, strict=True))
            for values in zip(*columns.values(), strict=True)
        ]
        return sorted(rows, key=lambda row: row["t_ns"])

    def attached(self, table: str = "") -> set[str]:
        """The functions that are probed, for one table."""
        return {one.symbol for one in self.session.attachments if not table or one.table == table}

    def hits(self) -> dict[str, int]:
        """How often each function was hit; all hits have to be emitted, filtered or in flight."""
        counts = Counts(self.session.shared.counts).read()
        hits: dict[str, int] = {}
        for member, (all, filtered, sampled, emitted, *lost) in zip(
            self.plan.members, counts.tolist(), strict=True
        ):
            assert all == filtered + sampled + emitted, (member.label, all, filtered, emitted, lost)
            hits[member.label] = hits.get(member.label, 0) + all
        return hits

    def metric(self, name: str) -> dict[int, int]:
        """What was counted, by bucket."""
        read = Histogram(self.session.shared.metrics[name]).read()
        return dict(zip(read.bucket.tolist(), read.counts.tolist(), strict=True))

    def _number(self, text: str) -> int:
        if text not in self._numbers:
            self._numbers[text] = len(self._texts)
            self._texts.append(text)
        return self._numbers[text]


def _plain(column: np.ndarray[Any, Any] | pa.Array) -> list[Any]:
    return column.to_pylist() if isinstance(column, pa.Array) else column.tolist()


Listen = Callable[..., AbstractContextManager[Heard]]


@pytest.fixture
def listen() -> Listen:
    """Record declarations and sets in this process: `with listen("libav") as heard:`."""

    @contextlib.contextmanager
    def listening(*asked: Asked, target: int | None = None) -> Iterator[Heard]:
        plan = Plan(asked)
        with contextlib.ExitStack() as undo:
            session = undo.enter_context(Session(plan, os.getpid() if target is None else target))
            yield Heard(plan, session, undo)

    return listening


@pytest.fixture
def compile_library(tmp_path: Path) -> Callable[[str, str], Path]:
    """Compile C into a shared library of this file name, without a soname.

    So a program that asks for the library that it stands for does not get it.
    """

    def compile(name: str, source: str) -> Path:
        compiler = native.compiler()
        if compiler is None:
            pytest.skip("no C compiler is installed: see 'vidlab doctor'")
        written = tmp_path / f"{name}.c"
        written.write_text(source)
        library = tmp_path / name
        words = [*shlex.split(compiler), "-shared", "-fPIC", "-O1", "-w"]
        subprocess.run([*words, "-o", str(library), str(written)], check=True)
        return library

    return compile
