"""The library that programs are attached to."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path

import pytest

from vidlab.capture.ebpf.kernel import links

from .lab import SOURCE


@pytest.fixture(scope="session")
def library_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The compiled library."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("there is no C compiler: apt install gcc")
    folder = tmp_path_factory.mktemp("lab")
    (folder / "lab.c").write_text(SOURCE)
    path = folder / "liblab.so"
    command = [compiler, "-O2", "-shared", "-fPIC", "-o", str(path), str(folder / "lab.c")]
    subprocess.run(command, check=True)
    return path


@pytest.fixture(scope="session")
def library(library_path: Path) -> ctypes.CDLL:
    """The library, loaded."""
    library = ctypes.CDLL(str(library_path))
    library.widths.restype = ctypes.c_long
    library.length.restype = ctypes.c_size_t
    return library


@pytest.fixture(params=["session", "pair"])
def session(request: pytest.FixtureRequest) -> bool:
    """Whether entry and return of a call share a link."""
    if request.param == "session" and not links.has_sessions():
        pytest.skip("sessions came with Linux 6.13")
    return request.param == "session"
