"""Sizes in bytes, read and written."""

from __future__ import annotations

import pytest

from vidlab import sizes


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (7, 7), ("7", 7), ("1 MB", 10**6), ("512 KiB", 512 << 10), ("1.5GiB", 3 << 29),
        ("2kB", 2_000), (" 2 KB ", 2_000), ("2G", 2 << 30), ("1.5k", 1536),
        ("1 TB", 10**12), ("0 B", 0),
    ],
)  # fmt: skip
def test_sizes(text: int | str, expected: int) -> None:
    assert sizes.parse(text) == expected


@pytest.mark.parametrize("text", ["", "MB", "-1 MB", "1 XB", "1e6", None, 1.5, True, -3])
def test_what_is_no_size(text: object) -> None:
    with pytest.raises(ValueError, match="is not a size such as"):
        sizes.parse(text)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("size", "said"),
    [(0, "0 B"), (512, "512 B"), (1536, "1.5 KiB"), (1 << 20, "1 MiB"), (123456789, "118 MiB"),
     (-(3 << 29), "-1.5 GiB"), (5000 << 40, "5,000 TiB")],
)  # fmt: skip
def test_they_are_said_with_three_digits(size: int, said: str) -> None:
    assert sizes.say(size) == said
