"""Patches are put back exactly, and hooks see modules as they are imported."""

from __future__ import annotations

import importlib
import sys
import types
import warnings
from pathlib import Path

import pytest

from vidlab.capture.patching import Patches


class Base:
    def read(self) -> str:
        return "base"

    @staticmethod
    def make() -> str:
        return "made"

    @property
    def size(self) -> int:
        return 1


class Child(Base):
    pass


def test_restores_the_very_entries_that_there_were() -> None:
    before = dict(vars(Base)), dict(vars(Child))
    patches = Patches()
    read, make = Base.read, Base.make
    assert patches.set(Base, "read", lambda self: "1" + read(self))
    assert patches.set(Base, "read", lambda self: "2")
    assert patches.set(Base, "make", staticmethod(lambda: "patched " + make()))
    assert patches.set(Base, "size", property(lambda self: 2))
    assert patches.set(Child, "read", lambda self: "child")  # which it had inherited
    assert (Base().read(), Base.make(), Base().size) == ("2", "patched made", 2)
    assert Child().read() == "child"
    assert patches.original(Base, "read") is read
    assert patches.original(Child, "make") is not make  # the patched one: never replaced there
    patches.restore()
    for cls, entries in zip((Base, Child), before, strict=True):
        assert vars(cls).keys() == entries.keys()
        assert all(vars(cls)[name] is entry for name, entry in entries.items())
    patches.restore()  # once more does nothing


def test_leaves_what_the_program_has_patched_since() -> None:
    patches = Patches()
    module = types.ModuleType("camera")
    module.read = len  # type: ignore[attr-defined]
    patches.set(module, "read", sum)
    module.read = max  # type: ignore[attr-defined]
    patches.restore()
    assert module.read is max


def test_an_immutable_class_is_a_warning() -> None:
    patches = Patches()
    with pytest.warns(RuntimeWarning, match="cannot record int.real"):
        assert not patches.set(int, "real", 5)
    patches.restore()


@pytest.fixture
def module_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    name = "vidlab_test_module"
    (tmp_path / f"{name}.py").write_text("value = 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield name
    sys.modules.pop(name, None)


def test_a_hook_fires_after_the_modules_own_code(module_name: str) -> None:
    path = list(sys.meta_path)
    patches, seen = Patches(), []
    patches.when_imported(module_name, lambda module: seen.append(module.value))
    assert importlib.util.find_spec(module_name) is not None  # looking is not importing
    assert seen == []
    module = importlib.import_module(module_name)
    assert seen == [1]
    assert "exec_module" not in vars(module.__spec__.loader)
    patches.when_imported(module_name, lambda module: seen.append(2))  # at once
    assert seen == [1, 2]
    patches.restore()
    assert sys.meta_path == path


def test_a_failing_hook_does_not_fail_the_import(module_name: str) -> None:
    patches = Patches()
    patches.when_imported(module_name, lambda module: 1 / 0)
    with pytest.warns(RuntimeWarning, match="does not record vidlab_test_module"):
        assert importlib.import_module(module_name).value == 1
    patches.restore()


def test_no_hook_fires_after_restore(module_name: str) -> None:
    patches, seen = Patches(), []
    patches.when_imported(module_name, seen.append)
    patches.restore()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        importlib.import_module(module_name)
    assert seen == []
