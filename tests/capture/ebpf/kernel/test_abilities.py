"""What the kernel is said to do, it does; what it does not comes with a remedy."""

from __future__ import annotations

import shutil

import pytest

from vidlab.capture.ebpf.kernel import abilities, links, tracefs
from vidlab.capture.ebpf.kernel.abilities import Ability

from ..conftest import child

pytestmark = [pytest.mark.needs("ebpf"), pytest.mark.usefixtures("nothing_left")]

BY_NAME = """
from vidlab.capture.ebpf.kernel import abilities
for told in abilities.abilities():
    print(told.name, told.works, told.detail, told.remedy, sep="|")
"""


def by_name(output: str) -> dict[str, Ability]:
    found = {}
    for line in output.splitlines():
        name, works, detail, remedy = line.split("|")
        found[name] = Ability(name, works == "True", detail, remedy)
    return found


def test_everything_is_tried() -> None:
    told = {ability.name: ability for ability in abilities.abilities()}
    assert told["maps and programs"].works
    assert "cap_sys_admin" in told["maps and programs"].detail
    assert told["ring buffer"].works
    assert told["uprobes, many by one link"].detail == "10 calls of a function ran it 10 times"
    assert told["uprobes of a process's threads"].works
    sessions = told["entry and return by one link"]
    assert sessions.works == links.has_sessions()
    if sessions.works:
        assert sessions.detail == "10 calls of a function ran it 20 times"
    assert told["tracepoint formats"].works
    assert told["tracepoints"].works
    for ability in told.values():
        assert ability.detail
        assert ability.works or ability.remedy


def test_without_rights_the_reason_comes_once() -> None:
    told = by_name(child(BY_NAME, keep=()))
    assert not told["maps and programs"].works
    assert "kernel events need cap_bpf and cap_perfmon" in told["maps and programs"].detail
    assert "sudo vidlab ebpf-broker" in told["maps and programs"].remedy
    for name in ("ring buffer", "uprobes, many by one link", "tracepoints"):
        assert told[name] == Ability(name, False, "not tried", "first of all 'maps and programs'")
    if tracefs.mounted() is None:
        assert "may not mount it" in told["tracepoint formats"].detail


@pytest.mark.skipif(not shutil.which("unshare"), reason="unshare is not installed")
def test_a_mounted_bpf_file_system_is_found() -> None:
    mount = 'mount -t bpf bpf /sys/fs/bpf && exec "$@"'
    told = by_name(child(BY_NAME, "unshare", "-m", "sh", "-c", mount, "sh"))
    assert told["BPF file system"].works
    assert told["BPF file system"].detail == "mounted at /sys/fs/bpf"


@pytest.mark.parametrize(
    ("patched", "name", "words"),
    [
        ("has_uprobes", "uprobes, many by one link", "Linux 6.6 or newer"),
        ("has_sessions", "entry and return by one link", "Linux 6.13 or newer"),
    ],
)
def test_an_older_kernel_gets_the_remedy(
    monkeypatch: pytest.MonkeyPatch, patched: str, name: str, words: str
) -> None:
    monkeypatch.setattr(links, patched, lambda: False)
    (told,) = [ability for ability in abilities.abilities() if ability.name == name]
    assert not told.works
    assert told.detail == "this kernel does not know such links"
    assert words in told.remedy


def test_calls_that_go_unseen_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(abilities.TrialFunction, "call", lambda *_: 0)
    told = {ability.name: ability for ability in abilities.abilities()}
    assert told["uprobes, many by one link"].detail == "10 calls of a function ran it 0 times"
    assert not told["uprobes, many by one link"].works
    assert not told["uprobes of a process's threads"].works
    assert "6.6.33" in told["uprobes of a process's threads"].remedy
