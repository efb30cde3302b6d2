"""Which files a library's name means."""

from __future__ import annotations

from pathlib import Path

import pytest

from vidlab.capture.ebpf.symbols.matching import Pattern, without_hash

WHEEL = "libavcodec-5e6b81c2.so.62.28.102"
MODULE = "/site/cupy_backends/cuda/api/runtime.cpython-311-x86_64-linux-gnu.so"


@pytest.mark.parametrize(
    ("text", "name", "meant"),
    [
        ("libavcodec", WHEEL, True),
        ("libavcodec.so", WHEEL, True),
        ("libavcodec.so.62", WHEEL, True),
        ("libavcodec.so.62.28.102", WHEEL, True),
        ("libavcodec.so*", WHEEL, True),
        ("libavcodec*", WHEEL, True),
        ("libavcodec-*.so.*", WHEEL, True),
        (WHEEL, WHEEL, True),
        ("libavcodec.so.6", WHEEL, False),
        ("libavcodec.so.61", WHEEL, False),
        ("libav", WHEEL, False),
        ("avcodec", WHEEL, False),
        ("libcuda", "libcudart.so.12", False),
        ("libcuda.so", "libcudart.so.12", False),
        ("libcuda.so.1", "libcuda.so.1", True),
        ("libc", "libc.so.6", True),
        ("libc.so.6", "libc.so.6", True),
        ("libc", "libcrypt.so.1", False),
        ("runtime", "runtime.cpython-311-x86_64-linux-gnu.so", True),
        ("runtime", "_runtime_enum.cpython-311-x86_64-linux-gnu.so", False),
        ("python3.11", "python3.11", True),
        ("python3", "python3.11", False),
        ("python3.?*", "python3.11", True),
        ("libopenblasp-r0", "libopenblasp-r0-59ffcd50.3.15.so", False),
        ("libopenblasp-r0.3.15.so", "libopenblasp-r0-59ffcd50.3.15.so", True),
    ],
)
def test_names(text, name, meant):
    assert Pattern(text).matches(f"/usr/lib/{name}") is meant
    assert Pattern(text).names(name) is meant


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        (MODULE, True),
        ("cupy_backends/cuda/api/runtime.*.so", True),
        ("api/runtime.cpython-311-x86_64-linux-gnu.so", True),
        ("/site/*/runtime.*.so", True),
        ("pi/runtime.*.so", False),
        ("/cuda/api/runtime.*.so", False),
        ("cupy/runtime.*.so", False),
        ("*", True),
    ],
)
def test_paths(text, meant):
    assert Pattern(text).matches(MODULE) is meant


def test_a_path_from_here_and_one_from_home(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/me")
    assert Pattern("./libx.so").matches(str(Path.cwd() / "libx.so"))
    assert Pattern("../libx.so").matches(str(Path.cwd().parent / "libx.so"))
    assert Pattern("~/libx.so").matches("/home/me/libx.so")


def test_only_a_file_with_the_same_beginning_may_have_the_soname():
    assert Pattern("libcuda.so.1").may_name("libcuda.so.535.183.01")
    assert Pattern("libcud*.so.1").may_name("libcuda.so.535.183.01")
    assert not Pattern("libcuda.so.1").may_name("libcudart.so.12")
    assert not Pattern("/lib/libcuda.so.1").may_name("libcuda.so.535.183.01")
    assert not Pattern("*").may_name("libcuda.so.535.183.01")


def test_a_wheels_hash_is_left_out():
    assert without_hash(WHEEL) == "libavcodec.so.62.28.102"
    assert without_hash("libxcb-shape-7716c890.so.0.0.0") == "libxcb-shape.so.0.0.0"
    assert without_hash("libgcc_s.so.1") == "libgcc_s.so.1"
    assert without_hash("ld-linux-x86-64.so.2") == "ld-linux-x86-64.so.2"
