"""What an experiment's GPU memory is: a GPU's, host memory in its place, or none."""

from __future__ import annotations

from ..capture.gpu import hostcuda
from ..errors import InputError, VidlabError
from .uploads import device, works

#: The backends: whatever works, in the order of the others from the right; no GPU memory; CuPy
#: on host memory; a real GPU.
AUTO, CPU, HOSTCUDA, CUDA = BACKENDS = ("auto", "cpu", "hostcuda", "cuda")


def ready(backend: str, gpu: int | None = None) -> tuple[str | None, str]:
    """See to it that CuPy has a device, unless the backend is without.

    Host memory, once CuPy has it, is what CuPy has until the process ends.

    Parameters
    ----------
    backend : str
        One of `BACKENDS`.
    gpu : int, optional
        The device that is to be there; by default the first.

    Returns
    -------
    tuple of (str or None, str)
        The device's name; or None, and why there is none.

    Raises
    ------
    InputError
        If there is no such backend, or it does not work here, or has no such device.
    """
    if backend not in BACKENDS:
        raise InputError(f"there is no backend {backend!r}: there are {', '.join(BACKENDS)}")
    if gpu is not None and (isinstance(gpu, bool) or not isinstance(gpu, int) or gpu < 0):
        raise InputError(f"gpu is a device index such as 0, not {gpu!r}; None is for no label")
    if backend == CPU:
        if gpu is not None:
            raise InputError(f"the backend cpu has no GPU: leave gpu={gpu} out, or say auto")
        return None, "without GPU memory, as the backend cpu is"
    try:
        name = _start(backend, 0 if gpu is None else gpu)
    except VidlabError as error:
        if backend == AUTO and gpu is None:
            return None, f"GPU memory was left out: {error}"
        raise InputError(f"the backend {backend} does not work here: {error}") from error
    return name, ""


def _start(backend: str, gpu: int) -> str:
    """Give CuPy its device, and return the device's name. VidlabError if that cannot be done."""
    if backend == CUDA:
        if hostcuda.installed():
            raise VidlabError(
                "CuPy is on host memory in this process: start another, or restart the kernel"
            )
        if not works():
            raise VidlabError("CuPy finds no GPU: vidlab doctor says what is missing")
    elif backend == HOSTCUDA:
        hostcuda.install(devices=gpu + 1, force=True)
    name = device()
    import cupy

    count = cupy.cuda.runtime.getDeviceCount()
    if gpu >= count:
        raise VidlabError(f"there is no GPU {gpu}: there are {count}, counted from 0")
    return name
