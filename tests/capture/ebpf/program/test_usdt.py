"""USDT probes in the real kernel: their arguments, wherever the compiler left them."""

from __future__ import annotations

import ctypes
from pathlib import Path

import pytest

from vidlab.capture.ebpf import (
    Usdt,
    arg,
)
from vidlab.capture.ebpf.program import moments
from vidlab.capture.ebpf.symbols.usdt import UsdtArgument
from vidlab.errors import InputError

from .lab import Kernel

pytestmark = [pytest.mark.needs("ebpf"), pytest.mark.usefixtures("nothing_left")]


def test_usdt_arguments_wherever_they_are(library: ctypes.CDLL, library_path: Path) -> None:
    # As if the compiler had left the arguments of widths() so at its entry.
    at_entry = (
        UsdtArgument("register", 4, True, "di"),
        UsdtArgument("register", 2, False, "si"),
        UsdtArgument("register", 1, True, "dx", shift=8),
        UsdtArgument("constant", 8, True, constant=-(1 << 40)),
        UsdtArgument("memory", 8, False, "sp"),
        UsdtArgument("memory", 4, True, "", index_register="cx", scale=4, displacement=-8),
    )
    source = Usdt(
        "x", "lab", "widths", {f"a{i}": arg(i) for i in range(6)}, when=arg(0, "i64") < 100
    )
    cells = (ctypes.c_int32 * 4)(11, -22, 33, -44)
    address = ctypes.addressof(cells)
    assert address % 4 == 0
    with Kernel(library_path, {0: source}) as kernel:
        kernel.attach(kernel.load(moments.usdt(kernel.context(0), source, [at_entry])), "widths")
        index = ctypes.c_uint64(address // 4 + 2 + 1)
        library.widths(-1, 0x12345, 0x8042, index, 0, 0)
        library.widths(100, 0, 0, index, 0, 0)
        (record,) = kernel.records()
        assert record["a0"].astype("<i8") == -1
        assert record["a1"] == 0x2345
        assert record["a2"].astype("<i8") == -128
        assert record["a3"].astype("<i8") == -(1 << 40)
        assert record["a4"] > 1 << 32  # a return address
        assert record["a5"].astype("<i8") == -22
        assert kernel.counts() == {"hits": 2, "filtered": 1, "emitted": 1}


def test_a_usdt_probe_with_several_places(library: ctypes.CDLL, library_path: Path) -> None:
    source = Usdt("x", "lab", "probe", {"value": arg(0), "typed": arg(0, "i8")})
    first = (UsdtArgument("register", 4, True, "di"),)
    second = (UsdtArgument("register", 8, False, "si"),)
    with Kernel(library_path, {0: source}) as kernel:
        code = moments.usdt(kernel.context(0), source, [first, second, first])
        program = kernel.load(code)
        for number, symbol in enumerate(("add", "many", "inner")):
            kernel.attach(program, symbol, cookie=number << 32 | 77)
        library.add(200, 2)
        library.many(None, 0)
        library.inner(-4)
        records = kernel.records()
        assert records["value"].astype("<i8").tolist() == [200, 0, -4]
        assert records["typed"].astype("i1").tolist() == [-56, 0, -4]


def test_usdt_arguments_that_cannot_be_read_are_refused(library_path: Path) -> None:
    source = Usdt("x", "lab", "probe", {"value": arg(1)})
    with Kernel(library_path, {0: source}) as kernel:
        with pytest.raises(InputError, match=r"arg\(1\): the USDT probe has 1 arguments"):
            moments.usdt(kernel.context(0), source, [(UsdtArgument("constant"),)])
        bad = UsdtArgument("unsupported", text="8@x(%rip)", why="it is a variable")
        with pytest.raises(InputError, match=r"cannot be read: it is a variable \(8@x"):
            moments.usdt(kernel.context(0), source, [(UsdtArgument("constant"), bad)])
        # What is not asked for may be anything.
        other = Usdt("x", "lab", "probe", {"value": arg(0)})
        assert moments.usdt(kernel.context(0), other, [(UsdtArgument("constant"), bad)]).size
