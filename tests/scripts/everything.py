"""Decode a clip, and use at once all that an engine of vidlab looks at.

python everything.py CLIP ENDING

ENDING is "return", "exception", "wait" (until a signal comes), or "handler" (the same, with a
handler of SIGTERM that exits).
"""

import asyncio
import hashlib
import queue
import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import av
import cupy
import cv2
import numpy as np


def decode(path, frames):
    with av.open(path) as container:
        for frame in container.decode(video=0):
            frames.put(frame)
    frames.put(None)


def digest(image):
    return hashlib.sha256(np.ascontiguousarray(image)).hexdigest()[:12]


def work(frame):
    small = cv2.resize(frame.to_ndarray(format="bgr24"), (64, 36))
    on_device = cupy.empty(small.shape, small.dtype)
    on_device.set(small)
    return digest(cupy.asnumpy(on_device))


async def add_up(numbers):
    async def one(number):
        await asyncio.sleep(0)
        return number * number

    return sum(await asyncio.gather(*(one(number) for number in range(numbers))))


def main(path, ending):
    frames = queue.Queue(maxsize=4)
    reader = threading.Thread(target=decode, args=(path, frames), name="reader")
    reader.start()
    with ThreadPoolExecutor(2) as pool:
        for number, found in enumerate(pool.map(work, iter(frames.get, None))):
            print(number, found)
    reader.join()
    print(asyncio.run(add_up(100)), threading.active_count())
    if ending == "exception":
        raise ValueError("as asked")
    if ending == "handler":
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(3))
    if ending in ("wait", "handler"):
        print("waiting", flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main(*sys.argv[1:])
