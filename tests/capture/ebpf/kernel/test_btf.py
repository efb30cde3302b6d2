"""The kernel's types: against what is known of every kernel, and types made by hand."""

from __future__ import annotations

import random
import struct
from pathlib import Path

import pytest

from vidlab.capture.ebpf.kernel import btf
from vidlab.capture.ebpf.kernel.btf import Btf, BtfError, Member

INT, PTR, ARRAY, STRUCT, UNION, ENUM, FORWARD = 1, 2, 3, 4, 5, 6, 7
TYPEDEF, CONST, FUNC, PROTO, VAR, SECTION, DECLARATION, ENUM64 = 8, 10, 12, 13, 14, 15, 17, 19


class Types:
    """Type information, written by hand."""

    def __init__(self) -> None:
        self.text = b"\0"
        self.types = b""
        self.count = 0

    def name(self, name: str) -> int:
        if not name:
            return 0
        at = len(self.text)
        self.text += name.encode() + b"\0"
        return at

    def add(
        self, kind: int, name: str, size: int, *words: int, members: int = 0, flag: int = 0
    ) -> int:
        info = flag << 31 | kind << 24 | members
        self.types += struct.pack(f"<{3 + len(words)}I", self.name(name), info, size, *words)
        self.count += 1
        return self.count

    def structure(
        self,
        name: str,
        size: int,
        *members: tuple[str, int, int],
        kind: int = STRUCT,
        flag: int = 0,
    ) -> int:
        words = [word for n, t, place in members for word in (self.name(n), t, place)]
        return self.add(kind, name, size, *words, members=len(members), flag=flag)

    def data(self) -> bytes:
        head = struct.pack(
            "<HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(self.types), len(self.types), len(self.text)
        )
        return head + self.types + self.text


def made() -> Types:
    types = Types()
    u32 = types.add(INT, "unsigned int", 4, 32)
    pointer = types.add(PTR, "", u32)
    array = types.add(ARRAY, "", 0, u32, u32, 7)
    number = types.add(TYPEDEF, "number_t", types.add(CONST, "", u32))
    union = types.structure("", 8, ("whole", pointer, 0), ("half", u32, 32), kind=UNION)
    inner = types.structure("inner", 16, ("first", u32, 0), ("", union, 64))
    alias = types.add(TYPEDEF, "inner_t", inner)
    types.add(ENUM, "choice", 4, 0, 0, 0, 1, members=2)
    types.add(ENUM64, "wide", 8, *[0] * 6, members=2)
    types.add(FORWARD, "outer", 0)
    proto = types.add(PROTO, "", u32, 0, u32, 0, u32, members=2)
    types.add(FUNC, "outer", proto)
    types.add(VAR, "outer", u32, 1)
    types.add(SECTION, ".data", 4, 13, 0, 4, members=1)
    types.add(DECLARATION, "tag", u32, 0)
    types.structure(
        "outer",
        96,
        ("list", array, 0),
        ("named", alias, 28 * 8),
        ("", inner, 48 * 8),
        ("typed", number, 64 * 8),
        ("next", pointer, 72 * 8),
    )
    types.structure("bits", 4, ("low", u32, 3 << 24), ("high", u32, 29 << 24 | 3), flag=1)
    types.structure("plain", 8, ("high", u32, 32), flag=1)
    types.structure("empty", 0)
    return types


def test_members_are_found_through_what_is_unnamed_and_named() -> None:
    types = Btf(made().data())
    assert types.count == made().count
    assert types.member("outer", "list") == Member(0, 28)
    assert types.member("outer", "named") == Member(28, 16)
    assert types.member("outer", "named.first") == Member(28, 4)
    assert types.member("outer", "named.half") == Member(28 + 8 + 4, 4)
    assert types.member("outer", "half") == Member(48 + 8 + 4, 4)
    assert types.member("outer", "first") == Member(48, 4)
    assert types.member("outer", "typed") == Member(64, 4)
    assert types.member("outer", "next") == Member(72, 8)
    assert types.member("plain", "high") == Member(4, 4)


def test_names_are_told_apart_by_kind() -> None:
    types = Btf(made().data())
    assert types.function_id("outer") == 13
    assert types.has_struct("outer")
    assert types.function_id("inner") is None
    assert not types.has_struct("choice")
    assert not types.has_struct("oute")
    assert not types.has_struct("uter")


@pytest.mark.parametrize(
    ("structure", "path", "words"),
    [
        ("nothing", "x", "no structure 'nothing'"),
        ("choice", "x", "no structure 'choice'"),
        ("outer", "x", "'outer' has no member 'x'"),
        ("outer", "named.x", "'named' has no member 'x'"),
        ("outer", "list.x", "'list' has no member 'x'"),
        ("empty", "x", "'empty' has no member 'x'"),
        ("bits", "low", "is a bit field"),
        ("bits", "high", "is a bit field"),
    ],
)
def test_what_is_not_there_is_told(structure: str, path: str, words: str) -> None:
    with pytest.raises(BtfError, match=words):
        Btf(made().data()).member(structure, path)


@pytest.mark.parametrize("seed", range(30))
def test_types_of_every_kind_are_walked_whole(seed: int) -> None:
    """The walkers agree with one walk from the first type to the last."""
    types, starts, draw = Types(), [], random.Random(seed)
    for _ in range(draw.choice([1, 2, 50, 2000])):
        starts.append(len(types.types) // 4)
        kind = draw.choice([INT, PTR, ARRAY, STRUCT, ENUM, FUNC, PROTO, VAR, ENUM64])
        each = {STRUCT: 3, ENUM: 2, PROTO: 2, ENUM64: 3}.get(kind, 0)
        members = draw.randrange(40) if each else 0
        extra = {INT: 1, ARRAY: 3, VAR: 1}.get(kind, 0) + each * members
        # Words that look like headers of types, to lead a walker astray.
        look = draw.choice([0, 1, 3 << 24, STRUCT << 24 | 5, 0xFFFFFFFF])
        types.add(kind, "", 0, *[look] * extra, members=members)
    assert Btf(types.data())._starts.tolist() == starts


@pytest.mark.parametrize("data", [b"", b"\x9f", b"ELF" * 20, made().data()[:24]])
def test_what_is_no_type_information_is_told(data: bytes) -> None:
    with pytest.raises(BtfError, match="type information"):
        Btf(data)


def test_a_kernel_without_types_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(btf, "PATH", tmp_path / "vmlinux")
    btf.kernel.cache_clear()
    try:
        assert not btf.available()
        with pytest.raises(BtfError, match="CONFIG_DEBUG_INFO_BTF"):
            btf.function_id("bpf_session_cookie")
    finally:
        btf.kernel.cache_clear()


@pytest.mark.needs("ebpf")
def test_the_running_kernel_tells_its_types() -> None:
    if not btf.PATH.exists():
        pytest.skip("this kernel does not tell its types")
    assert btf.member("list_head", "prev") == Member(8, 8)
    assert btf.member_offset("sock", "__sk_common.skc_family") == 16
    assert btf.member("task_struct", "comm").size == 16
    assert btf.member_offset("tcp_sock", "srtt_us") > 0
    assert btf.has_struct("task_struct")
    assert not btf.has_struct("task_structure")
    assert btf.function_id("no_such_function") is None


@pytest.mark.needs("ebpf")
def test_the_index_of_the_running_kernel_is_a_plain_walks() -> None:
    if not btf.PATH.exists():
        pytest.skip("this kernel does not tell its types")
    types = btf.kernel()
    words, at, starts = types._words, 0, []
    while at < len(words):
        starts.append(at)
        kind, members = words[at + 1] >> 24 & 31, words[at + 1] & 0xFFFF
        at += 3 + {INT: 1, ARRAY: 3, VAR: 1, DECLARATION: 1}.get(kind, 0)
        at += {STRUCT: 3, UNION: 3, SECTION: 3, ENUM64: 3, ENUM: 2, PROTO: 2}.get(kind, 0) * members
    assert types._starts.tolist() == starts
