"""Running the documentation's snippets, and drawing what they return."""

from __future__ import annotations

import ast
import io
import struct
import zlib
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import polars as pl

import vidlab as vl

#: Pixels of a picture for each of the chart's.
SCALE = 1.5


def value_of(code: str, names: MutableMapping[str, Any] | None = None) -> Any:
    """Run a snippet, as a notebook does, and return what its last line is; None if nothing.

    Parameters
    ----------
    code : str
        Python. What it assigns stays in `names`.
    names : MutableMapping, optional
        What it is run with, beside `vl` and `pl`, which is polars.
    """
    known = {} if names is None else names
    known.update(vl=vl, pl=pl)
    body = ast.parse(code).body
    last = body.pop() if body and isinstance(body[-1], ast.Expr) else None
    exec(compile(ast.Module(body, []), "<snippet>", "exec"), known)  # type: ignore[arg-type]
    if last is None:
        return None
    assert isinstance(last, ast.Expr)
    return eval(compile(ast.Expression(last.value), "<snippet>", "eval"), known)  # type: ignore[arg-type]


def save(chart: Any, path: Path) -> None:
    """Draw a chart into a PNG file, with a palette: a tenth of what all colours would take."""
    drawn = io.BytesIO()
    chart.save(drawn, format="png", scale_factor=SCALE)
    png = np.frombuffer(drawn.getvalue(), np.uint8)
    pixels = np.asarray(cv2.imdecode(png, cv2.IMREAD_COLOR_RGB), np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(_png(*_palette(pixels)))


def _palette(pixels: npt.NDArray[np.uint8]) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Return each pixel's number in a palette of at most 256 colours, and the palette."""
    flat = pixels.reshape(-1, 3)
    colours, which, counts = np.unique(flat, axis=0, return_inverse=True, return_counts=True)
    kept = np.argsort(-counts, kind="stable")[:256]
    palette = colours[kept].astype(np.int32)
    # Those that are rare, of the edges of letters and lines, become the nearest that is kept.
    nearest = np.empty(len(colours), np.uint8)
    for begin in range(0, len(colours), 4096):
        part = colours[begin : begin + 4096].astype(np.int32)
        off = ((part[:, None, :] - palette[None, :, :]) ** 2).sum(axis=2)
        nearest[begin : begin + 4096] = off.argmin(axis=1)
    return nearest[which.reshape(-1)].reshape(pixels.shape[:2]), colours[kept]


def _png(numbers: npt.NDArray[np.uint8], palette: npt.NDArray[np.uint8]) -> bytes:
    """Return a PNG file of eight bits a pixel with a palette (W3C, Portable Network Graphics)."""
    height, width = numbers.shape
    rows = np.zeros((height, width + 1), np.uint8)  # each row begins with its filter: none
    rows[:, 1:] = numbers
    parts = {
        b"IHDR": struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0),
        b"PLTE": palette.tobytes(),
        b"IDAT": zlib.compress(rows.tobytes(), 9),
        b"IEND": b"",
    }
    chunks = [
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in parts.items()
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)
