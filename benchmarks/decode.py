"""What recording adds to decoding: demux, decode and two stages of every frame.

A frame has six spans here: four of work, its reorder wait, and its wait in the list
that `decode` returned. That is the first figure. The second is all that recording
adds, identity and events included. As the difference between a recorded and a plain
decode of a 1080p clip drowns in noise, it is measured where it stands out, on a tiny
clip, and compared with the CPU that decoding a 1080p H.264 frame takes: what recording
costs does not depend on the size of the picture.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import av

import vidlab as vl

from .figure import Figure, median_cpu_ns, report
from .spans import a_frame, stages


def make_clip(path: Path, size: str, frames: int) -> Path:
    """Encode moving test content with a little grain, H.264 with B-frames at CRF 23."""
    source = av.open(f"testsrc2=size={size}:rate=30,noise=alls=6:allf=t", format="lavfi")
    with source, av.open(str(path), "w") as output:
        width, height = map(int, size.split("x"))
        stream = output.add_stream("libx264", rate=30, options={"crf": "23", "bf": "2"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for index, frame in enumerate(source.decode(video=0)):
            if index == frames:
                break
            output.mux(stream.encode(frame.reformat(format="yuv420p")))
        output.mux(stream.encode())
    return path


def decode(path: Path, stages: bool) -> Callable[[], int]:
    """Return what decodes the clip on one thread and returns the number of frames."""

    def run() -> int:
        count = 0
        with av.open(str(path)) as clip:
            clip.streams.video[0].thread_count = 1
            for packet in clip.demux(video=0):
                for frame in packet.decode():
                    count += 1
                    if stages:
                        with vl.stage("filter", frame):
                            pass
                        with vl.stage("detect", frame):
                            pass
        return count

    return run


def cpu_per_frame(run: Callable[[], int]) -> float:
    before = time.process_time_ns()
    frames = run()
    return (time.process_time_ns() - before) / frames


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tiny = make_clip(folder / "tiny.mp4", "64x48", 1500)
        large = make_clip(folder / "large.mp4", "1920x1080", 60)
        plain, recorded, full = [], [], []
        decode(tiny, False)()
        for round_ in range(9):
            plain.append(cpu_per_frame(decode(tiny, False)))
            with vl.record(folder / f"run-{round_}", engines=[vl.Frames()]):
                recorded.append(cpu_per_frame(decode(tiny, True)))
            full.append(cpu_per_frame(decode(large, False)))
    cost = median(after - before for before, after in zip(plain, recorded, strict=True))
    with tempfile.TemporaryDirectory() as name:
        run = Path(name) / "run"
        with vl.record(run, engines=[vl.Frames()]):
            span = median_cpu_ns({"ours": stages(a_frame())}, 20_000)["ours"]
    peer = median(full)
    report(
        [
            Figure("the spans of a frame (6) / a 1080p decode", 6 * span, "ns", peer, 0.003),
            Figure("all that recording adds to a frame / a 1080p decode", cost, "ns", peer),
        ]
    )


if __name__ == "__main__":
    main()
