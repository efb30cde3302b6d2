"""The frame engine: stages, frame identity, PyAV, OpenCV, queues, FFmpeg as a child process.

======================  ======================================================
`engine`                `Frames`: starts and stops all of it
`stages`, `decorating`  `stage`: a context manager and a decorator
`spans`, `threadstate`  what a stage does, as cheaply as Python allows
`recorder`              `SpanRecorder`: what everything here writes through
`refs`, `arrays`        `FrameRef`: a frame's identity, and what carries it
`sources`, `sampling`   where frames are born, and which are recorded
`adaptive`              the share of frames that follows the machine and the errors
`exceptional`           frames that adaptive sampling keeps whole
`pyav`                  PyAV, in place: `decoding`, `encoding`, `opaque`
`opencv`, `opencv_io`   OpenCV, in place
`queues`                `queue.Queue` in place; `traced_queue` for the rest
`video`, `sinks`        `open_video`, `open_output`, `deliver`
`ffmpeg`                `run_ffmpeg`: an FFmpeg child, with `ffmpeg_reports`
======================  ======================================================
"""
