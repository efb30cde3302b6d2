"""Whose frames a cause struck: of few streams that have most of it, it is told by themselves."""

from __future__ import annotations

import polars as pl
import pytest

from vidlab.analysis.blame import causes
from vidlab.workbench.explain import topics


def blamed(cause: str, seconds: dict[str | None, float]) -> pl.DataFrame:
    """A late frame of each stream, for which this cause is blamed for so long."""
    return pl.DataFrame(
        {
            "frame": range(1, len(seconds) + 1),
            "stream_id": list(seconds),
            "codec": ["av1" if name in ("a", "b") else "h264" for name in seconds],
            "cause": cause,
            "stage": "before filter",
            "blamed_ns": [round(each * 1e9) for each in seconds.values()],
            "sample_rate": 1.0,
        },
        schema_overrides={"stream_id": pl.String},
    )


@pytest.mark.parametrize(
    ("seconds", "told"),
    [
        ({"a": 9, "b": 8, "c": 2, "d": 2, "e": 1}, [("streams a, b (av1)", 17), (None, 5)]),
        ({"a": 9, "b": 2, "c": 2, "d": 2}, [("stream a (av1)", 9), (None, 6)]),
        ({"a": 9, "c": 8, "d": 7, "e": 3, "f": 3}, [("streams a, c, d", 24), (None, 6)]),
        ({"a": 3, "c": 3, "d": 3, "e": 1, "f": 6}, [("all 5 streams", 16)]),
        ({"a": 2, "b": 2, "c": 2, "d": 2, "e": 2}, [("all 5 streams", 10)]),
        ({"a": 9, "b": 8}, [("streams a, b", 17)]),  # of one codec, as all are
        ({"a": 9}, [("stream a (av1)", 9)]),
        ({None: 9, "c": 1, "d": 1}, [("frames without a stream (h264)", 9), (None, 2)]),
    ],
)
def test_few_streams_that_have_most_are_told_of_by_themselves(
    seconds: dict[str | None, float], told: list[tuple[str | None, float]]
) -> None:
    rows = blamed(causes.QUEUE_WAIT, seconds)
    found = topics.found_in(rows)
    assert [topic.seconds for topic in found] == [each for _, each in told]
    assert sum(topic.share for topic in found) == pytest.approx(1)
    for topic, (words, _) in zip(found, told, strict=True):
        assert words is None or topics.whose([topic], rows) == words
        assert (topic.streams is None) == (words is None or words.startswith("all"))


def test_what_strikes_a_whole_process_is_one() -> None:
    rows = blamed(causes.GIL, {"a": 9, "b": 1, "c": 1, "d": 1})
    (topic,) = topics.found_in(rows)
    assert topic.seconds == 12
    assert topics.whose([topic], rows) == "all 4 streams"
