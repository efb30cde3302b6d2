"""Transcode a clip with PyAV: a thread decodes, another scales, this one encodes.

python transcode.py INPUT OUTPUT [SIZE]
"""

import queue
import sys
import threading

import av


def decode(path, frames):
    with av.open(path) as container:
        for frame in container.decode(video=0):
            frames.put(frame)
    frames.put(None)


def scale(size, frames, scaled):
    while (frame := frames.get()) is not None:
        scaled.put(frame.reformat(width=size, height=size * 9 // 16))
    scaled.put(None)


def main(source, target, size=160):
    frames, scaled = queue.Queue(maxsize=4), queue.Queue(maxsize=4)
    threads = [
        threading.Thread(target=decode, args=(source, frames)),
        threading.Thread(target=scale, args=(int(size), frames, scaled)),
    ]
    for thread in threads:
        thread.start()
    count = 0
    with av.open(target, "w") as container:
        stream = None
        while (frame := scaled.get()) is not None:
            if stream is None:
                stream = container.add_stream("libx264", rate=25, options={"preset": "ultrafast"})
                stream.width, stream.height = frame.width, frame.height
                stream.pix_fmt = "yuv420p"
            container.mux(stream.encode(frame))
            count += 1
        container.mux(stream.encode(None))
    for thread in threads:
        thread.join()
    print(f"{count} frames")


if __name__ == "__main__":
    main(*sys.argv[1:])
