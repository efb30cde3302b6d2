"""What works on this machine, and how to get the rest."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from ..capture.gpu import native
from ..capture.gpu.hostcuda.installing import working_gpu
from ..errors import VidlabError

#: The distributions that each extra brings, by the module that is imported of it.
EXTRAS = {
    "video": {"av": "av", "cv2": "opencv-python-headless"},
    "workbench": {
        "altair": "altair",
        "jupyterlab": "jupyterlab",
        "nbconvert": "nbconvert",
        "pandas": "pandas",
        "papermill": "papermill",
        "polars": "polars",
        "tqdm": "tqdm",
    },
    "gpu": {"cupy": "cupy-cuda12x", "pynvml": "nvidia-ml-py"},
    "profile": {"pyroscope": "pyroscope-io"},
}

#: FFmpeg's names of the encoders that the demo's clips are made with, and of all decoders of
#: those codecs.
ENCODERS = ("libx264", "libx265", "libsvtav1", "libvpx-vp9")
DECODERS = ("h264", "hevc", "libdav1d", "vp9", "mpeg2video", "mpeg4")

#: What an ability says that needs another first, which is told of.
_NOT_TRIED = "not tried"

#: Less free disk than this is worth a word: a recording writes up to some megabytes a second.
ENOUGH_DISK_BYTES = 2 << 30


@dataclass(frozen=True)
class Finding:
    """One ability of this machine.

    Attributes
    ----------
    what : str
        The ability.
    works : bool
        Whether it is there.
    detail : str
        Which version of it, or what is missing.
    remedy : str
        The command, or the step, that brings it; '' if it works.
    """

    what: str
    works: bool
    detail: str
    remedy: str = ""


def examine(folder: str | os.PathLike[str] = ".") -> list[Finding]:
    """Return what works on this machine and how to get the rest, one finding an ability.

    Parameters
    ----------
    folder : path
        Where runs are to be written: its free disk space is looked at.
    """
    findings: list[Finding] = []
    for examination in (_python, _extras, _codecs, _programs, _gpu, _kernel, _kernel_events):
        findings += examination()
    findings.append(_disk(Path(folder)))
    return findings


def _python() -> Iterator[Finding]:
    version = platform.python_version()
    yield Finding(
        "Python",
        sys.version_info >= (3, 11),
        f"{version}, {sys.executable}",
        "" if sys.version_info >= (3, 11) else "install Python 3.11 or later",
    )
    yield from _packages("recording", {"numpy": "numpy", "pyarrow": "pyarrow"}, "vidlab")


def _extras() -> Iterator[Finding]:
    for extra, packages in EXTRAS.items():
        yield from _packages(extra, packages, f"vidlab[{extra}]")


def _packages(purpose: str, packages: dict[str, str], requirement: str) -> Iterator[Finding]:
    here = {name: importlib.util.find_spec(module) is not None for module, name in packages.items()}
    missing = [name for name, found in here.items() if not found]
    if missing:
        detail, remedy = "missing: " + ", ".join(missing), f"pip install '{requirement}'"
    else:
        detail, remedy = ", ".join(f"{name} {_version(name)}" for name in here), ""
    yield Finding(f"packages for {purpose}", not missing, detail, remedy)


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:  # the module is here under another distribution's name
        return "(another build)"


def _codecs() -> Iterator[Finding]:
    try:
        import av
        import av.codec
    except ImportError:
        return  # `packages for video` says it
    for what, mode, names in (("encoders", "w", ENCODERS), ("decoders", "r", DECODERS)):
        missing = [name for name in names if not _has_codec(av.codec.Codec, name, mode)]
        yield Finding(
            f"PyAV's {what}",
            not missing,
            "missing: " + ", ".join(missing) if missing else ", ".join(names),
            "pip install --force-reinstall --only-binary av av" if missing else "",
        )


def _has_codec(codec: Any, name: str, mode: str) -> bool:
    try:
        codec(name, mode)
    except ValueError:  # av.codec.codec.UnknownCodecError is one
        return False
    return True


def _programs() -> Iterator[Finding]:
    for what, commands, package in (
        ("FFmpeg as a child process", ("ffmpeg",), "ffmpeg"),
        ("PDF reports, by Chromium", ("chromium", "chromium-browser", "google-chrome"), "chromium"),
    ):
        found = next(filter(None, map(shutil.which, commands)), None)
        yield Finding(
            what,
            found is not None,
            found or f"missing: {commands[0]}",
            "" if found else f"sudo apt install {package}",
        )


def _gpu() -> Iterator[Finding]:
    compiler, gpu = _compiler(), working_gpu()
    yield compiler
    yield Finding(
        "a GPU for CuPy",
        gpu is not None,
        gpu or "the CUDA driver offers none",
        ""
        if gpu
        else "install NVIDIA's driver (a container needs --gpus all); or, to try it in host "
        "memory: vidlab record --hostcuda, vl.hostcuda.install()",
    )
    yield _nvml()
    yield _host_memory(compiler)


def _compiler() -> Finding:
    """Whether our C can be built: host memory, and the driver level of GPU memory, are C."""
    what, found = "a C compiler", native.compiler()
    if found is None:
        chosen = os.environ.get("CC", "").strip()
        if chosen:
            return Finding(what, False, f"missing: $CC, {chosen}", "unset CC, or install it")
        need = "CuPy on host memory and the driver level of GPU memory are built from C"
        return Finding(what, False, f"missing: gcc; {need}", "sudo apt install gcc")
    header = Path(sysconfig.get_path("include"), "Python.h")
    if not header.exists():
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        remedy = f"sudo apt install python{version}-dev"
        return Finding(what, False, f"{found}, missing: {header}", remedy)
    return Finding(what, True, found)


def _nvml() -> Finding:
    """Whether NVML, by which the GPUs are sampled, tells of any."""
    what = "NVML"
    try:
        import pynvml
    except ImportError:
        return Finding(what, False, "missing: nvidia-ml-py", "pip install 'vidlab[gpu]'")
    try:
        pynvml.nvmlInit()
        try:
            count = pynvml.nvmlDeviceGetCount()
            detail = f"{count} {'device' if count == 1 else 'devices'}, {_driver(pynvml)}"
        finally:
            pynvml.nvmlShutdown()
    except pynvml.NVMLError as error:
        count, detail = 0, str(error)
    remedy = (
        "install NVIDIA's driver, which brings libnvidia-ml.so.1; a container needs --gpus all "
        "and the driver capability 'utility'"
    )
    return Finding(what, count > 0, detail, "" if count else remedy)


def _driver(nvml: Any) -> str:
    try:
        version = nvml.nvmlSystemGetDriverVersion()
    except nvml.NVMLError as error:
        return f"driver unknown: {error}"
    # Older versions of nvidia-ml-py give bytes.
    return f"driver {version.decode(errors='replace') if isinstance(version, bytes) else version}"


def _host_memory(compiler: Finding) -> Finding:
    """Whether CuPy could be put on host memory; in this process it is not."""
    what = "CuPy on host memory"
    if importlib.util.find_spec("cupy_backends") is None:
        return Finding(what, False, "missing: cupy-cuda12x", "pip install 'vidlab[gpu]'")
    if not compiler.works:
        return Finding(what, False, "not without a C compiler", compiler.remedy)
    return Finding(what, True, "vidlab record --hostcuda, vl.hostcuda.install()")


def _kernel() -> Iterator[Finding]:
    here = Path("/proc/thread-self/schedstat").exists()
    yield Finding(
        "run-queue waits",
        here,
        "/proc/thread-self/schedstat" if here else "no /proc/thread-self/schedstat",
        "" if here else "boot a Linux kernel that has CONFIG_SCHED_INFO",
    )
    usable = len(os.sched_getaffinity(0))
    yield Finding(
        "CPU cores",
        usable >= 2,
        f"{usable} usable of {os.cpu_count()}",
        "" if usable >= 2 else "give this machine or container 2 cores, or the demo falls behind",
    )


def _kernel_events() -> Iterator[Finding]:
    """What the kernel can do for kernel events, each thing tried; then the broker, if need be."""
    try:
        from ..capture.ebpf.engine import BROKER_VARIABLE
        from ..capture.ebpf.kernel import abilities
    except ImportError:
        return  # `packages for recording` says it
    known = abilities.abilities()
    for ability in known:
        if ability.detail != _NOT_TRIED:
            yield Finding(
                f"kernel events: {ability.name}", ability.works, ability.detail, ability.remedy
            )
    socket = os.environ.get(BROKER_VARIABLE)
    if socket or not known[0].works:
        yield _broker(BROKER_VARIABLE, socket)


def _broker(variable: str, socket: str | None) -> Finding:
    """Whether a broker loads programs for this process, which may not itself."""
    from ..capture.ebpf.broker.client import RemoteSession
    from ..capture.ebpf.kernel.privileges import PrivilegeError
    from ..capture.ebpf.plan import Plan
    from ..capture.ebpf.session import LEAST_RING

    what = "kernel events: by a broker"
    if not socket:
        remedy = f"run 'sudo vidlab ebpf-broker', and set {variable} to what it says"
        return Finding(what, False, f"{variable} is not set", remedy)
    try:
        RemoteSession(Path(socket), Plan(["sched"]), os.getpid(), ring_bytes=LEAST_RING).close()
    except PrivilegeError as error:
        return Finding(what, False, error.why, error.remedy)
    except VidlabError as error:
        return Finding(what, False, str(error), "run 'sudo vidlab ebpf-broker' of this version")
    return Finding(what, True, f"it attaches to this process, asked at {socket}")


def _disk(folder: Path) -> Finding:
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(there).free
    enough, writable = free >= ENOUGH_DISK_BYTES, os.access(there, os.W_OK)
    remedy = ""
    if not writable:
        remedy = f"record elsewhere (-o RUN), or: sudo chown $USER '{there}'"
    elif not enough:
        remedy = f"free some space: df -h '{there}'; or bound recordings by --max-bytes"
    return Finding(
        "disk for runs",
        enough and writable,
        f"{free / 2**30:.1f} GiB free in {there}" + ("" if writable else ", not writable"),
        remedy,
    )
