"""Copies and fills that CUDA is asked for: the table `kernel_cuda_copies`.

Columns of its own, beside what every table of calls has:

op             copy; set, for memory that is filled with a value
level          driver or runtime
direction      host_to_host, host_to_device, device_to_host, device_to_device; arrays are on
               the device. Null where the call does not say: the addresses do
direction_code the cudaMemcpyKind, of calls that give one
source         where it comes from: an address, or an array's handle; null for fills, for
               symbols of a program and for batches
destination    where it goes; likewise
size_bytes     width times height times depth; null for batches, and for `cudaMemset3D`, whose
               extent comes in a way of its own. With an array, the runtime's 3D copies
               count in elements rather than bytes
cuda_stream    of an asynchronous copy or fill; 0 is the default one
status         a CUresult or cudaError_t: 0 is success
asynchronous   1 if the call may return before it is done

A copy of a rectangle is told by where the whole memory begins, not by the rectangle's corner.
"""

from __future__ import annotations

from collections.abc import Mapping

from ..declaring.checks import Value
from ..declaring.expressions import arg, choice, deref
from ..declaring.operations import Expression
from ..declaring.probes import Probe
from .cuda_calls import driver, runtime

TABLE = "cuda_copies"

_TO_DEVICE, _TO_HOST, _ON_DEVICE = "host_to_device", "device_to_host", "device_to_device"

#: By cudaMemcpyKind; 4 leaves it to the addresses.
_KINDS = {0: "host_to_host", 1: _TO_DEVICE, 2: _TO_HOST, 3: _ON_DEVICE}

#: By the CUmemorytype of the source times 16, and of the destination: 1 is host, 2 device,
#: 3 an array, and 4 leaves it to the address.
_SIDES = {
    0x11: "host_to_host",
    **{0x10 + to: _TO_DEVICE for to in (2, 3)},
    **{16 * source + 1: _TO_HOST for source in (2, 3)},
    **{16 * source + to: _ON_DEVICE for source in (2, 3) for to in (2, 3)},
}


def declarations() -> list[Probe]:
    """Return the probes on copies and fills."""
    return [*_driver(), *_driver_structs(), *_driver_fills(), *_runtime(), *_runtime_fills()]


def _driver() -> list[Probe]:
    made = []
    for way, direction in (("HtoD", _TO_DEVICE), ("DtoH", _TO_HOST), ("DtoD", _ON_DEVICE)):
        known: dict[str, Value] = {"direction": direction}
        # The first version has addresses and sizes of 32 bit on the device's side.
        old: dict[str, Value] = {
            **known,
            "destination": arg(0, "u64" if way[-1] == "H" else "u32"),
            "source": arg(1, "u64" if way[0] == "H" else "u32"),
            "size_bytes": arg(2, "u32"),
        }
        made += driver(TABLE, f"cuMemcpy{way}_v2+ptds", _copy(arg(2, "i64"), known))
        made += driver(TABLE, f"cuMemcpy{way}", {**_copy(arg(2, "i64")), **old})
        made += driver(
            TABLE, f"cuMemcpy{way}Async_v2+ptsz", _on(arg(3), _copy(arg(2, "i64"), known))
        )
        made += driver(TABLE, f"cuMemcpy{way}Async", _on(arg(3), {**_copy(arg(2, "i64")), **old}))
    for way, direction, source, size in (
        ("AtoH", _TO_HOST, 1, 3),
        ("AtoD", _ON_DEVICE, 1, 3),
        ("HtoA", _TO_DEVICE, 2, 3),
        ("DtoA", _ON_DEVICE, 2, 3),
        ("AtoA", _ON_DEVICE, 2, 4),
    ):
        known = {"direction": direction, "source": arg(source)}
        for symbol, type in ((f"cuMemcpy{way}_v2+ptds", "i64"), (f"cuMemcpy{way}", "u32")):
            made += driver(TABLE, symbol, _copy(arg(size, type), known))
    for way, direction, source in (("AtoH", _TO_HOST, 1), ("HtoA", _TO_DEVICE, 2)):
        known = {"direction": direction, "source": arg(source)}
        for symbol, type in (
            (f"cuMemcpy{way}Async_v2+ptsz", "i64"),
            (f"cuMemcpy{way}Async", "u32"),
        ):
            made += driver(TABLE, symbol, _on(arg(4), _copy(arg(3, type), known)))
    peer: dict[str, Value] = {"direction": _ON_DEVICE, "source": arg(2)}
    return [
        *made,
        *driver(TABLE, "cuMemcpy+ptds", _copy(arg(2, "i64"))),
        *driver(TABLE, "cuMemcpyAsync+ptsz", _on(arg(3), _copy(arg(2, "i64")))),
        *driver(TABLE, "cuMemcpyPeer+ptds", _copy(arg(4, "i64"), peer)),
        *driver(TABLE, "cuMemcpyPeerAsync+ptsz", _on(arg(5), _copy(arg(4, "i64"), peer))),
        *driver(TABLE, "cuMemcpyBatchAsync+ptsz", {**_batch(), "cuda_stream": arg(8)}),
        *driver(TABLE, "cuMemcpyBatchAsync_v2+ptsz", {**_batch(), "cuda_stream": arg(7)}),
        *driver(TABLE, "cuMemcpy3DBatchAsync+ptsz", {**_batch(), "cuda_stream": arg(4)}),
        *driver(TABLE, "cuMemcpy3DBatchAsync_v2+ptsz", {**_batch(), "cuda_stream": arg(3)}),
    ]


def _driver_structs() -> list[Probe]:
    """Return the probes on copies that a CUDA_MEMCPY2D, 3D or 3D_PEER describes."""
    plane = _described(16, 72, _extent(112, 120))
    block = _described(32, 120, _extent(176, 184, 192))
    # The first versions, of 32 bit, put the two sides' addresses elsewhere.
    old_plane = {**_COPY, "size_bytes": _extent(84, 88, type="u32")}
    old_block = {**_COPY, "size_bytes": _extent(128, 132, 136, type="u32")}
    return [
        *driver(TABLE, "cuMemcpy2D_v2+ptds cuMemcpy2DUnaligned_v2+ptds", plane),
        *driver(TABLE, "cuMemcpy2DAsync_v2+ptsz", _on(arg(1), plane)),
        *driver(TABLE, "cuMemcpy3D_v2+ptds cuMemcpy3DPeer+ptds", block),
        *driver(TABLE, "cuMemcpy3DAsync_v2+ptsz cuMemcpy3DPeerAsync+ptsz", _on(arg(1), block)),
        *driver(TABLE, "cuMemcpy2D cuMemcpy2DUnaligned", old_plane),
        *driver(TABLE, "cuMemcpy2DAsync", _on(arg(1), old_plane)),
        *driver(TABLE, "cuMemcpy3D", old_block),
        *driver(TABLE, "cuMemcpy3DAsync", _on(arg(1), old_block)),
    ]


def _driver_fills() -> list[Probe]:
    made = []
    for bits in (8, 16, 32):
        line, plane = f"cuMemsetD{bits}", f"cuMemsetD2D{bits}"
        length = arg(2, "i64") * (bits // 8)
        area = arg(3, "i64") * arg(4, "i64") * (bits // 8)
        made += driver(TABLE, f"{line}_v2+ptds", _fill(length))
        made += driver(TABLE, f"{line}Async+ptsz", _on(arg(3), _fill(length)))
        made += driver(TABLE, f"{plane}_v2+ptds", _fill(area))
        made += driver(TABLE, f"{plane}Async+ptsz", _on(arg(5), _fill(area)))
        old = {"destination": arg(0, "u32")}
        made += driver(TABLE, line, {**_fill(arg(2, "u32") * (bits // 8)), **old})
        area = arg(3, "u32") * arg(4, "u32") * (bits // 8)
        made += driver(TABLE, plane, {**_fill(area), **old})
    return made


def _runtime() -> list[Probe]:
    line = _copy(arg(2, "i64"), _kind(arg(3, "i32")))
    plane = _copy(arg(4, "i64") * arg(5, "i64"), {"source": arg(2), **_kind(arg(6, "i32"))})
    peer = _copy(arg(4, "i64"), {"source": arg(2), "direction": _ON_DEVICE})
    to_symbol = {**_COPY, "source": arg(1), "size_bytes": arg(2, "i64"), **_kind(arg(4, "i32"))}
    from_symbol = {**to_symbol, "destination": arg(0)}
    del from_symbol["source"]
    to_array = _copy(arg(4, "i64"), {"source": arg(3), **_kind(arg(5, "i32"))})
    from_array = _copy(arg(4, "i64"), {"source": arg(1), **_kind(arg(5, "i32"))})
    area, kind = arg(5, "i64") * arg(6, "i64"), _kind(arg(7, "i32"))
    plane_to_array = _copy(area, {"source": arg(3), **kind})
    plane_from_array = _copy(area, {"source": arg(2), **kind})
    between = {"source": arg(3), **kind}
    planes_between = {"source": arg(3), **_kind(arg(8, "i32"))}
    return [
        *runtime(TABLE, "cudaMemcpy+ptds", line),
        *runtime(TABLE, "cudaMemcpyAsync+ptsz", _on(arg(4), line)),
        *runtime(TABLE, "cudaMemcpy2D+ptds", plane),
        *runtime(TABLE, "cudaMemcpy2DAsync+ptsz", _on(arg(7), plane)),
        *runtime(TABLE, "cudaMemcpy3D+ptds", _parms(96, 128, 152)),
        *runtime(TABLE, "cudaMemcpy3DAsync+ptsz", _on(arg(1), _parms(96, 128, 152))),
        *runtime(TABLE, "cudaMemcpy3DPeer+ptds", _parms(104, 144)),
        *runtime(TABLE, "cudaMemcpy3DPeerAsync+ptsz", _on(arg(1), _parms(104, 144))),
        *runtime(TABLE, "cudaMemcpyPeer", peer),
        *runtime(TABLE, "cudaMemcpyPeerAsync", _on(arg(5), peer)),
        *runtime(TABLE, "cudaMemcpyToSymbol+ptds", to_symbol),
        *runtime(TABLE, "cudaMemcpyToSymbolAsync+ptsz", _on(arg(5), to_symbol)),
        *runtime(TABLE, "cudaMemcpyFromSymbol+ptds", from_symbol),
        *runtime(TABLE, "cudaMemcpyFromSymbolAsync+ptsz", _on(arg(5), from_symbol)),
        *runtime(TABLE, "cudaMemcpyToArray+ptds", to_array),
        *runtime(TABLE, "cudaMemcpyToArrayAsync+ptsz", _on(arg(6), to_array)),
        *runtime(TABLE, "cudaMemcpyFromArray+ptds", from_array),
        *runtime(TABLE, "cudaMemcpyFromArrayAsync+ptsz", _on(arg(6), from_array)),
        *runtime(TABLE, "cudaMemcpy2DToArray+ptds", plane_to_array),
        *runtime(TABLE, "cudaMemcpy2DToArrayAsync+ptsz", _on(arg(8), plane_to_array)),
        *runtime(TABLE, "cudaMemcpy2DFromArray+ptds", plane_from_array),
        *runtime(TABLE, "cudaMemcpy2DFromArrayAsync+ptsz", _on(arg(8), plane_from_array)),
        *runtime(TABLE, "cudaMemcpyArrayToArray+ptds", _copy(arg(6, "i64"), between)),
        *runtime(
            TABLE,
            "cudaMemcpy2DArrayToArray+ptds",
            _copy(arg(6, "i64") * arg(7, "i64"), planes_between),
        ),
        *runtime(TABLE, "cudaMemcpyBatchAsync+ptsz", _batch()),
        *runtime(TABLE, "cudaMemcpy3DBatchAsync+ptsz", _batch()),
    ]


def _runtime_fills() -> list[Probe]:
    line = _fill(arg(2, "i64"))
    plane = _fill(arg(3, "i64") * arg(4, "i64"))
    block: dict[str, Value] = {"op": "set", "asynchronous": 0}
    return [
        *runtime(TABLE, "cudaMemset+ptds", line),
        *runtime(TABLE, "cudaMemsetAsync+ptsz", _on(arg(3), line)),
        *runtime(TABLE, "cudaMemset2D+ptds", plane),
        *runtime(TABLE, "cudaMemset2DAsync+ptsz", _on(arg(5), plane)),
        *runtime(TABLE, "cudaMemset3D+ptds", block),
        *runtime(TABLE, "cudaMemset3DAsync+ptsz", _on(arg(1), block)),
    ]


# --- parts of declarations ------------------------------------------------------------

_COPY: dict[str, Value] = {"op": "copy", "asynchronous": 0}


def _copy(size: Expression, known: Mapping[str, Value] | None = None) -> dict[str, Value]:
    """Return the columns of a copy: to its first argument, from its second unless told."""
    told = {"destination": arg(0), "source": arg(1), "size_bytes": size}
    return {**_COPY, **told, **(known or {})}


def _fill(size: Expression) -> dict[str, Value]:
    return {"op": "set", "asynchronous": 0, "destination": arg(0), "size_bytes": size}


def _batch() -> dict[str, Value]:
    return {"op": "copy", "asynchronous": 1}


def _on(stream: Expression, entry: Mapping[str, Value]) -> dict[str, Value]:
    return {**entry, "cuda_stream": stream, "asynchronous": 1}


def _kind(code: Expression) -> dict[str, Value]:
    """Return the columns of a cudaMemcpyKind."""
    return {"direction": choice(code, _KINDS), "direction_code": code}


def _extent(*offsets: int, type: str = "i64") -> Expression:
    """Return the product of numbers in what the first argument points to."""
    first, *others = (deref(arg(0), type, offset) for offset in offsets)
    size = first
    for other in others:
        size = size * other
    return size


def _described(source: int, destination: int, size: Expression) -> dict[str, Value]:
    """Return the columns of a copy that a struct describes.

    Parameters
    ----------
    source, destination : int
        Where in it the type of either side's memory is. Behind it are an address of the
        host, one of the device and an array, of which the type says which one counts.
    """
    sides = (deref(arg(0), "u8", source) << 4) | deref(arg(0), "u8", destination)
    return {
        **_COPY,
        "direction": choice(sides, _SIDES),
        "source": _side(source),
        "destination": _side(destination),
        "size_bytes": size,
    }


def _side(offset: int) -> Expression:
    type = deref(arg(0), "u32", offset)
    # The types 1, 2 and 3 have a place of 8 bytes each; 4, for any address, has that of 2.
    return deref(arg(0) + (type << 3) - ((type >> 2) << 4), offset=offset)


def _parms(destination: int, extent: int, kind: int | None = None) -> dict[str, Value]:
    """Return the columns of a copy that a cudaMemcpy3DParms or 3DPeerParms describes.

    Parameters
    ----------
    destination : int
        Where in it the destination's pointer is; its array is 32 bytes before, and of an
        array and a pointer one is null.
    extent : int
        Where width, height and depth are.
    kind : int, optional
        Where the cudaMemcpyKind is; without one it is from a device to another.
    """
    code: dict[str, Value] = {"direction": _ON_DEVICE}
    if kind is not None:
        code = _kind(deref(arg(0), "i32", kind))
    return {
        **_COPY,
        "source": deref(arg(0)) | deref(arg(0), offset=32),
        "destination": deref(arg(0), offset=destination - 32) | deref(arg(0), offset=destination),
        "size_bytes": _extent(extent, extent + 8, extent + 16),
        **code,
    }
