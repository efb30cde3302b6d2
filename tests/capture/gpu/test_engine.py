"""The engine as a whole: what it needs, when CuPy comes, and what it leaves."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from vidlab.capture.engine import Engine
from vidlab.capture.gpu.engine import GpuMemory
from vidlab.capture.gpu.tracking import tracker as tracking
from vidlab.errors import InputError
from vidlab.recording import record
from vidlab.runs.run import open_run


def run(script: str, *arguments: object) -> str:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_parameters_make_another_one_like_it() -> None:
    engine = GpuMemory(stack_depth=7, holders=False)
    assert isinstance(engine, Engine)
    assert GpuMemory(**engine.parameters()).parameters() == engine.parameters()
    with pytest.raises(InputError, match="0 to 128"):
        GpuMemory(stack_depth=1000)


@pytest.mark.needs("hostcuda")
def test_off_it_leaves_nothing(tmp_path: Path) -> None:
    import gc

    import cupy

    callbacks, allocator = list(gc.callbacks), cupy.cuda.get_allocator()
    names = {name: vars(cupy.cuda.memory)[name] for name in vars(cupy.cuda.memory)}
    for n in range(2):
        with record(tmp_path / f"run{n}", engines=[GpuMemory()]):
            assert tracking.active is not None
        assert tracking.active is None
        assert gc.callbacks == callbacks
        assert cupy.cuda.get_allocator() == allocator
        assert vars(cupy.cuda.memory) == names


def test_importing_it_imports_no_cupy() -> None:
    assert "False False" in run(
        """
        import sys
        import vidlab, vidlab.capture.gpu.engine
        print("cupy" in sys.modules, "pynvml" in sys.modules)
        """
    )


@pytest.mark.needs("hostcuda")
def test_cupy_imported_while_recording(tmp_path: Path) -> None:
    run(
        """
        import sys
        from vidlab.capture.gpu import hostcuda
        from vidlab.capture.gpu.engine import GpuMemory
        from vidlab.recording import record
        hostcuda.install()
        with record(sys.argv[1], engines=[GpuMemory()]):
            assert "cupy" not in sys.modules
            import cupy
            array = cupy.empty(300, "u1")
            del array
        assert type(cupy.empty(3).data.mem) is cupy.cuda.memory.PooledMemory
        """,
        tmp_path / "run",
    )
    rows = open_run(tmp_path / "run").scan("allocations").collect().to_dicts()
    assert sorted((row["level"], row["op"]) for row in rows) == [
        ("driver", "alloc"),
        ("pool", "alloc"),
        ("pool", "free"),
    ]


@pytest.mark.parametrize("missing", ["cupy", "driver"])
def test_without_cupy_or_a_device_it_says_so(tmp_path: Path, missing: str) -> None:
    run(
        """
        import ctypes, os, sys
        os.environ["VIDLAB_HOSTCUDA"] = "0"
        missing = sys.argv[2]
        if missing == "cupy":
            class Nothing:
                def find_spec(self, name, path=None, target=None):
                    if name.partition(".")[0] == "cupy":
                        raise ModuleNotFoundError(name)
            import importlib.util
            find = importlib.util.find_spec
            importlib.util.find_spec = lambda name, *rest: None if name == "cupy" else find(name)
        else:
            load = ctypes.CDLL
            def refuse(name, *rest, **options):
                if name == "libcuda.so.1":
                    raise OSError(name)
                return load(name, *rest, **options)
            ctypes.CDLL = refuse
        from vidlab.capture.gpu.engine import GpuMemory
        from vidlab.recording import record
        with record(sys.argv[1], engines=[GpuMemory()]):
            pass
        """,
        tmp_path / "run",
        missing,
    )
    (found,) = open_run(tmp_path / "run").scan("findings").collect().to_dicts()
    assert (found["kind"], found["severity"]) == ("gpu_memory_not_recorded", "info")
    assert {"cupy": "CuPy is not installed", "driver": "no CUDA driver"}[missing] in found[
        "message"
    ]


@pytest.mark.needs("hostcuda")
def test_survivors_are_stored_with_their_holders(tmp_path: Path) -> None:
    import cupy

    kept = []
    with record(tmp_path / "run", engines=[GpuMemory()]):
        kept.append(cupy.empty(123 * 8, "u1"))
        address = kept[0].data.ptr
    rows = open_run(tmp_path / "run").scan("holders").collect().to_dicts()
    assert [(row["address"], row["size_bytes"]) for row in rows] == [(address, 1024)]
