"""Videos, opened for reading and writing with PyAV and recorded while a recording runs."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any

from ...errors import InputError, missing_extra
from ...labelsets import normalise_codec

if TYPE_CHECKING:
    from .pyav import PyAV

#: PyAV's part of the recording that runs, if one does.
recorded: PyAV | None = None


def _av() -> Any:
    try:
        import av
        import av.codec.hwaccel
    except ImportError:
        raise missing_extra("av", "video") from None
    return av


class Video:
    """An input that `open_video` has opened.

    Attributes
    ----------
    container : av.container.InputContainer
        PyAV's own object, for all that is not here.
    stream : av.video.stream.VideoStream
        Its (first) video stream.
    """

    def __init__(self, container: Any) -> None:
        self.container = container
        self.stream = container.streams.video[0]

    def packets(self) -> Iterator[Any]:
        """Yield the video's packets (`av.Packet`); the last one is empty and drains decoders."""
        return self.container.demux(self.stream)  # type: ignore[no-any-return]

    def frames(self) -> Iterator[Any]:
        """Yield the video's decoded frames (`av.VideoFrame`) in the order they are shown in."""
        return self.container.decode(self.stream)  # type: ignore[no-any-return]

    def close(self) -> None:
        """Close the input."""
        self.container.close()

    def __enter__(self) -> Video:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        self.close()


def open_video(
    source: str | os.PathLike[str] | Any,
    *,
    hardware: str | None = None,
    stream_id: str | None = None,
    codec: str | None = None,
    operation: str | None = None,
    **options: Any,
) -> Video:
    """Open a video file, device or URL for reading.

    While a recording runs, each packet and frame carries its identity, and demuxing
    and decoding are spans.

    Parameters
    ----------
    source : str, path or file object
        What `av.open` opens.
    hardware : str, optional
        Decode on this kind of device: "cuda", "vaapi". Where that is not possible,
        a warning says why and the CPU decodes.
    stream_id, codec, operation : str, optional
        Labels of its frames. By default the current ones; without, the source's base
        name with the stream's index, and the codec that PyAV names. `operation` is what
        a sampling rate is configured for.
    **options
        Keyword arguments of `av.open`.

    Returns
    -------
    Video
        A context manager that closes it.

    Raises
    ------
    InputError
        If it cannot be opened, or has no video.
    MissingDependencyError
        If PyAV is not installed.
    """
    av = _av()
    container = _open_input(av, source, hardware, options)
    if not container.streams.video:
        container.close()
        raise InputError(f"{source} has no video stream; ffprobe lists what is in it")
    video = Video(container)
    given = {"stream_id": stream_id, "codec": codec, "operation": operation}
    labels = {key: value for key, value in given.items() if value is not None}
    if "codec" in labels:
        labels["codec"] = normalise_codec(labels["codec"])
    if labels and recorded is not None and recorded.demuxing is not None:
        recorded.demuxing.name_input(video.stream, labels)
    return video


def _open_input(av: Any, source: Any, hardware: str | None, options: dict[str, Any]) -> Any:
    path = os.fspath(source) if isinstance(source, os.PathLike) else source
    try:
        container = av.open(path, **options)
        if hardware is None:
            return container
        reason = "no decoder for its codec"
        try:
            accelerated = av.codec.hwaccel.HWAccel(hardware, allow_software_fallback=True)
            on_device = av.open(path, hwaccel=accelerated, **options)
            if any(stream.codec_context.is_hwaccel for stream in on_device.streams.video):
                container.close()
                return on_device
            on_device.close()
        except (OSError, ValueError, RuntimeError, NotImplementedError) as error:
            # Without a driver, PyAV says "Operation not permitted".
            reason = f"{type(error).__name__}: {error}"
        _warn_of_fallback(f"decode {path}", hardware, reason)
        return container
    except (OSError, av.error.FFmpegError) as error:
        raise InputError(f"cannot open {path}: {error}") from error


def _warn_of_fallback(what: str, hardware: str, reason: str) -> None:
    warnings.warn(
        f"cannot {what} with {hardware} ({reason}): the CPU does it; "
        "'vidlab doctor' tells what this machine can do",
        RuntimeWarning,
        stacklevel=4,
    )


class Output:
    """An output that `open_output` has opened.

    Attributes
    ----------
    container : av.container.OutputContainer
        PyAV's own object, for all that is not here.
    stream : av.video.stream.VideoStream or None
        The video stream that was added last.
    """

    def __init__(self, container: Any) -> None:
        self.container = container
        self.stream: Any = None
        self._undrained: list[Any] = []

    def add_stream(
        self,
        codec: str = "libx264",
        rate: Any = None,
        *,
        hardware: str | None = None,
        **options: Any,
    ) -> Any:
        """Add a video stream to encode into, and return PyAV's `VideoStream`.

        Parameters
        ----------
        codec : str
            FFmpeg's name of the encoder.
        rate : int or Fraction, optional
            Frames a second.
        hardware : str, optional
            Encode on this kind of device: "cuda", "vaapi". Where that is not possible, a
            warning says why, and FFmpeg's software encoder of the same codec is used.
        **options
            Keyword arguments of `OutputContainer.add_stream`: `options={"crf": "23"}`, and
            `width`, `height` and `pix_fmt` of the stream.
        """
        if hardware is not None:
            av = _av()
            device = av.codec.hwaccel.HWAccel(hardware)
            try:
                # Tried apart: an output keeps a stream whose encoder has failed.
                av.CodecContext.create(codec, "w", hwaccel=device)
                options["hwaccel"] = device
            except (OSError, ValueError, RuntimeError, NotImplementedError) as error:
                reason = f"{type(error).__name__}: {error}"
                _warn_of_fallback(f"encode {codec}", hardware, reason)
                codec = normalise_codec(codec)
        self.stream = self.container.add_stream(codec, rate, **options)
        return self.stream

    def encode(self, frame: Any = None) -> None:
        """Encode a frame (`av.VideoFrame`) into the stream added last, and mux what comes out.

        Without a frame, the encoder gives out all that it holds. `close` does so too.
        """
        if self.stream is None:
            raise InputError("there is no stream to encode into yet: call add_stream first")
        self.container.mux(self.stream.encode(frame))
        others = [stream for stream in self._undrained if stream is not self.stream]
        self._undrained = others if frame is None else [*others, self.stream]

    def mux(self, packets: Any) -> None:
        """Write a packet, or several, as they are."""
        self.container.mux(packets)

    def close(self) -> None:
        """Encode and write what the encoders still hold, and end the file."""
        try:
            for stream in self._undrained:
                self.container.mux(stream.encode(None))
        finally:
            self._undrained = []
            self.container.close()

    def __enter__(self) -> Output:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        if error is not None:
            self._undrained = []  # what was encoded so far is kept
        self.close()


def open_output(target: str | os.PathLike[str] | Any, **options: Any) -> Output:
    """Open a video file or URL for writing.

    While a recording runs, encoding and muxing are spans of the frames that are encoded,
    and a muxed frame is delivered.

    Parameters
    ----------
    target : str, path or file object
        What `av.open` opens for writing.
    **options
        Keyword arguments of `av.open`.

    Returns
    -------
    Output
        A context manager that closes it.

    Raises
    ------
    InputError
        If it cannot be opened.
    MissingDependencyError
        If PyAV is not installed.
    """
    av = _av()
    path = os.fspath(target) if isinstance(target, os.PathLike) else target
    try:
        return Output(av.open(path, "w", **options))
    except (OSError, ValueError, av.error.FFmpegError) as error:
        raise InputError(f"cannot open {path} for writing: {error}") from error
