"""NumPy on the CPU, CuPy on the GPU: the only file that imports CuPy.

Numerics ask `array_module(x)` for the module that an array belongs to and `fft_module(x)` for its
FFTs, so that one code serves both.
"""

import functools
import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import scipy.fft

try:
    import cupy
    import cupyx.scipy.fft
    import cupyx.scipy.ndimage
except ImportError:
    cupy = None

DEVICES = ("auto", "cpu", "gpu")
SLAB_BYTES = 2**20  # of a volume: a few of them fit into a cache; smaller ones wait for Python


def cores() -> int:
    """Number of cores to work on: `OMP_NUM_THREADS` where it is set, else all of this process."""
    told = os.environ.get("OMP_NUM_THREADS", "").split(",")[0]
    if told.isdecimal() and int(told) > 0:
        return int(told)
    pinned = getattr(os, "sched_getaffinity", None)  # Linux: a job scheduler may grant a few only
    return len(pinned(0)) if pinned else os.cpu_count() or 1


class _HostFFT:
    """scipy.fft's transforms on all `cores`; inverse ones may use their input's memory."""

    @staticmethod
    def rfftn(x, s=None):
        return scipy.fft.rfftn(x, s=s, workers=cores())

    @staticmethod
    def irfftn(x, s=None):
        return scipy.fft.irfftn(x, s=s, workers=cores(), overwrite_x=True)

    @staticmethod
    def rfft(x, n, axis):
        return scipy.fft.rfft(x, n, axis, workers=cores())

    @staticmethod
    def irfft(x, n, axis):
        return scipy.fft.irfft(x, n, axis, workers=cores(), overwrite_x=True)

    @staticmethod
    def fft(x, n, axis):
        return scipy.fft.fft(x, n, axis, workers=cores())

    @staticmethod
    def ifft(x, n, axis):
        return scipy.fft.ifft(x, n, axis, workers=cores(), overwrite_x=True)


def gpu_available() -> bool:
    """Whether CuPy is installed and sees at least one GPU."""
    if cupy is None:
        return False
    try:
        return cupy.cuda.runtime.getDeviceCount() > 0
    except cupy.cuda.runtime.CUDARuntimeError:
        return False


def array_module(x):
    """`cupy` for a CuPy array, else `numpy`."""
    return cupy.get_array_module(x) if cupy is not None else np


def fft_module(x):
    """Module with FFTs for the array's device; multi-threaded on the CPU."""
    return cupyx.scipy.fft if array_module(x) is not np else _HostFFT


@functools.cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(cores())


os.register_at_fork(after_in_child=_threads.cache_clear)  # a forked process has no such threads


def over_slabs(function, x) -> None:
    """Call a function of a slice for slabs of x's first axis, on all `cores`.

    A chain of element-wise steps on a whole volume waits for memory in each; on slabs that stay in
    the cache it does not. On a GPU there is one slab.

    Args:
        function: of a slice with start and stop; works in place, and no slab writes to another.
        x: volume that is cut, NumPy or CuPy.
    """
    if array_module(x) is not np:
        function(slice(0, len(x)))
        return
    planes = max(SLAB_BYTES // max(x[0].nbytes, 1), 1)
    slabs = [slice(i, min(i + planes, len(x))) for i in range(0, len(x), planes)]
    for _ in _threads().map(function, slabs):
        pass


def to_device(x, device: str = "auto"):
    """Copy an array to `device`: "cpu", "gpu", or "auto" (the GPU where there is one).

    Raises:
        ValueError: unknown device, or "gpu" without CuPy or a GPU.
    """
    if device not in DEVICES:
        raise ValueError(f"device {device!r}: expected one of {', '.join(DEVICES)}")
    if device == "gpu" and not gpu_available():
        raise ValueError(
            "device 'gpu': no GPU that CuPy can use; install the wheel for your CUDA "
            "(pip install cupy-cuda13x or cupy-cuda12x) or set device=cpu"
        )
    if device == "cpu" or not gpu_available():
        return np.asarray(x)
    return cupy.asarray(x)


def to_host(x) -> np.ndarray:
    """Copy an array of either kind to a NumPy array."""
    return np.asarray(x) if array_module(x) is np else cupy.asnumpy(x)


def on_fastest(function):
    """A function of volumes, run on the GPU where there is one with room: NumPy in, NumPy out.

    Args:
        function: takes and returns volumes (X, Y, Z) of one module, NumPy or CuPy, among other
            arguments.

    Returns:
        the same function for NumPy volumes; without a GPU, the function itself.
    """
    return functools.partial(_on_gpu, function) if gpu_available() else function


def _on_gpu(function, *args, **kwargs):
    """Call a function of volumes on the GPU; on the CPU where its memory does not suffice."""

    def moved(x):
        return to_device(x, "gpu") if isinstance(x, np.ndarray) and x.ndim == 3 else x

    try:
        there = {key: moved(value) for key, value in kwargs.items()}
        return to_host(function(*map(moved, args), **there))
    except cupy.cuda.memory.OutOfMemoryError:
        cupy.get_default_memory_pool().free_all_blocks()
        return function(*args, **kwargs)
