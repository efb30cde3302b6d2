"""hostcuda where a real GPU works: never by surprise, and only if it is forced."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = pytest.mark.gpu


def said(program: str) -> list[str]:
    """What a program of its own prints, line by line."""
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def name_of_device() -> str:
    import cupy

    name: bytes = cupy.cuda.runtime.getDeviceProperties(0)["name"]
    return name.decode()


def test_it_refuses_and_names_the_gpu() -> None:
    message, installed, name = said(
        """if True:
        import vidlab as vl
        try:
            vl.hostcuda.install()
        except vl.VidlabError as error:
            print(error)
        print(vl.hostcuda.installed())
        import cupy
        print(cupy.cuda.runtime.getDeviceProperties(0)["name"].decode())
        """
    )
    assert f"a GPU works here ({name_of_device()})" in message
    assert "install(force=True)" in message
    assert (installed, name) == ("False", name_of_device())


def test_it_can_be_forced() -> None:
    installed, name, count, same, used = said(
        """if True:
        import vidlab as vl
        vl.hostcuda.install(devices=2, memory_bytes=1 << 30, force=True)
        print(vl.hostcuda.installed())
        import cupy
        import numpy as np
        print(cupy.cuda.runtime.getDeviceProperties(0)["name"].decode())
        print(cupy.cuda.runtime.getDeviceCount())
        picture = np.arange(1000, dtype="u1")
        print((cupy.asnumpy(cupy.asarray(picture)) == picture).all())
        print(vl.hostcuda.books()[0].used_bytes > 0)
        """
    )
    assert (installed, count, same, used) == ("True", "2", "True", "True")
    assert name == "host memory (no GPU)"
