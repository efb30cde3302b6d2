"""The project's own files: the lock, the conda environment and what must not be in the tree."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.markers import Marker
from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def locked(python: str) -> dict[str, str]:
    """Return the version of each package that the lock holds for this Python."""
    where = {"python_full_version": f"{python}.0", "python_version": python}
    found = re.findall(
        r"^([a-z0-9][\w.-]*)==(\S+)(?: ; (.*?))? \\$",
        (ROOT / "requirements.lock").read_text(),
        flags=re.MULTILINE,
    )
    return {
        name: version
        for name, version, marker in found
        if not marker or Marker(marker).evaluate(where)
    }


def direct_dependencies() -> set[str]:
    extras = PROJECT["optional-dependencies"]
    # gpu13 holds the same `cupy` package as gpu: only one of them can be installed.
    listed = [*PROJECT["dependencies"], *(r for e in extras for r in extras[e] if e != "gpu13")]
    return {Requirement(text).name for text in listed}


def test_every_locked_version_has_a_hash_and_no_address() -> None:
    text = (ROOT / "requirements.lock").read_text()
    packages = re.split(r"^(?=[a-z0-9])", text, flags=re.MULTILINE)[1:]
    assert len(packages) > 50
    assert [p.split()[0] for p in packages if "--hash=sha256:" not in p] == []
    assert "://" not in text
    assert not (ROOT / "uv.lock").exists()


def test_the_lock_meets_pyproject() -> None:
    extras = PROJECT["optional-dependencies"]
    listed = [*PROJECT["dependencies"], *(r for e in extras for r in extras[e] if e != "gpu13")]
    pins = locked("3.11")
    for text in listed:
        requirement = Requirement(text)
        assert pins[requirement.name] in requirement.specifier, text


def test_conda_installs_the_same() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    conda = [d for d in environment["dependencies"] if isinstance(d, str)]
    (pip,) = (d["pip"] for d in environment["dependencies"] if isinstance(d, dict))
    python = next(d.removeprefix("python=") for d in conda if d.startswith("python="))
    pins = locked(python)
    assert pip[0] == "--editable ."
    assert dict(p.split("==") for p in pip[1:]) == {n: pins[n] for n in direct_dependencies()}


def tracked() -> list[Path]:
    listing = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listing.returncode:
        pytest.skip("not a git checkout")
    files = (ROOT / name for name in listing.stdout.split("\0") if name)
    return [file for file in files if file.is_file()]


def test_no_file_is_heavy() -> None:
    megabyte = 1 << 20
    for file in tracked():
        inside_datasets = file.is_relative_to(ROOT / "datasets")
        assert file.stat().st_size <= (5 if inside_datasets else 1) * megabyte, file
        if file.suffix == ".ipynb":
            assert file.stat().st_size <= 50 << 10, file


def test_no_module_is_longer_than_a_head_can_hold() -> None:
    for file in (ROOT / "vidlab").rglob("*.py"):
        assert len(file.read_text().splitlines()) <= 400, file


def test_make_help_names_every_target() -> None:
    listed = subprocess.run(
        ["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    for target in ("setup", "demo", "test", "lab", "bench", "check"):
        assert re.search(rf"^{target}\s+\S", listed, flags=re.MULTILINE), target
