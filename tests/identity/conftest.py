"""The test clips, made once a session."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from . import clips


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Callable[[clips.Codec], Path]:
    """A function that returns the clip of a codec."""
    folder = tmp_path_factory.mktemp("clips")

    def clip(codec: clips.Codec) -> Path:
        path = folder / f"{codec.name}.mp4"
        if not path.exists():
            clips.make_clip(path, codec)
        return path

    return clip
