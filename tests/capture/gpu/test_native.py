"""Building C: once, for good, and with an error that helps."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from vidlab.capture.gpu import native
from vidlab.errors import MissingDependencyError, VidlabError

needs_compiler = pytest.mark.skipif(native.compiler() is None, reason="no C compiler")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "vidlab" / "native"


def source(folder: Path, text: str, name: str = "answer.c") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def exported(answer: int) -> str:
    return f'__attribute__((visibility("default"))) int answer(void) {{ return {answer}; }}'


@needs_compiler
def test_a_library_is_built_once(tmp_path: Path, cache: Path) -> None:
    unit = source(tmp_path, exported(42))
    first = native.build("libanswer.so", [unit])
    made = first.stat()
    second = native.build("libanswer.so", [unit])
    assert second == first
    assert (second.stat().st_ino, second.stat().st_mtime_ns) == (made.st_ino, made.st_mtime_ns)
    assert first.parent.parent == cache
    assert ctypes.CDLL(str(first)).answer() == 42


@needs_compiler
def test_other_sources_or_flags_give_another_library(tmp_path: Path) -> None:
    unit = source(tmp_path, '#include "value.h"\n' + exported(0).replace("0", "VALUE"))
    header = source(tmp_path, "#define VALUE 1\n", "value.h")
    first = native.build("libanswer.so", [unit, header])
    header.write_text("#define VALUE 2\n")
    second = native.build("libanswer.so", [unit, header])
    third = native.build("libanswer.so", [unit, header], ["-DUNUSED"])
    assert len({first, second, third}) == 3
    assert ctypes.CDLL(str(first)).answer() == 1
    assert ctypes.CDLL(str(second)).answer() == 2


@needs_compiler
def test_an_error_shows_what_the_compiler_says_and_leaves_nothing(
    tmp_path: Path, cache: Path
) -> None:
    unit = source(tmp_path, "int answer(void) { return nowhere; }")
    with pytest.raises(VidlabError, match=r"libanswer\.so does not compile(.|\n)*nowhere"):
        native.build("libanswer.so", [unit])
    assert list(cache.iterdir()) == []


def test_without_a_compiler_it_says_how_to_get_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert native.compiler() is None
    with pytest.raises(MissingDependencyError, match="apt install gcc"):
        native.build("libanswer.so", [source(tmp_path, exported(1))])
    monkeypatch.setenv("CC", "tcc-that-is-not-there -m64")
    with pytest.raises(MissingDependencyError, match=r"\$CC is 'tcc-that-is-not-there -m64'"):
        native.build("libanswer.so", [source(tmp_path, exported(1))])


@needs_compiler
def test_a_chosen_compiler_with_options_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    default = native.compiler()
    monkeypatch.setenv("CC", f"{default} -DANSWER=7")
    unit = source(tmp_path, exported(0).replace("0", "ANSWER"))
    assert ctypes.CDLL(str(native.build("libanswer.so", [unit]))).answer() == 7


@needs_compiler
def test_a_cache_that_cannot_be_written_is_done_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_the_way = tmp_path / "file"
    in_the_way.write_text("not a directory")
    monkeypatch.setenv("XDG_CACHE_HOME", str(in_the_way))
    library = native.build("libanswer.so", [source(tmp_path, exported(3))])
    assert ctypes.CDLL(str(library)).answer() == 3
    assert tmp_path not in library.parents
    assert library.parent.parent.stat().st_mode & 0o077 == 0


@needs_compiler
def test_builds_at_once_agree_on_one_library(tmp_path: Path, cache: Path) -> None:
    unit = source(tmp_path, exported(5))
    started = threading.Barrier(6)
    built: list[Path] = []

    def build() -> None:
        started.wait()
        built.append(native.build("libanswer.so", [unit]))

    threads = [threading.Thread(target=build) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(built) == 6
    assert len(set(built)) == 1
    assert ctypes.CDLL(str(built[0])).answer() == 5
    assert list(cache.iterdir()) == [built[0].parent]


EXTENSION = """
#include <Python.h>
static PyObject *answer(PyObject *self, PyObject *args)
{
    (void)self; (void)args;
    return PyLong_FromLong(42);
}
static PyMethodDef methods[] = {{"answer", answer, METH_NOARGS, ""}, {NULL, NULL, 0, NULL}};
static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, .m_name = "tried",
                                        .m_size = -1, .m_methods = methods};
PyMODINIT_FUNC PyInit_tried(void) { return PyModule_Create(&definition); }
"""


@needs_compiler
def test_an_extension_is_imported(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from vidlab.capture.gpu import native\n"
        "module = native.extension('some.place.tried', Path(sys.argv[1]))\n"
        "again = native.extension('some.place.tried', [Path(sys.argv[1])])\n"
        "print(module.answer(), again is module, sys.modules['some.place.tried'] is module)\n"
    )
    answer = subprocess.run(
        [sys.executable, "-c", program, str(source(tmp_path, EXTENSION, "tried.c"))],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ,
    )
    assert answer.stdout == "42 True True\n"
