"""Rows of `bench.py`: pairs of alternatives, timed in turn.

Each generator takes a head of step 0, its voxel size [mm] and the number of pairs; yields lines.
"""

import statistics
import time
from pathlib import Path
from unittest import mock

import network_model.quiet  # noqa: F401

# isort: split
import keras
import numpy as np
import scipy.fft

from network_model.inference import SHARE, predict, scan_channels
from network_model.losses import SourceL1
from network_model.subject import make_subject
from network_model.train_model.build import compiled
from network_model.unet import SPEC, build_unet, load_network, make_spec
from training_data import backend
from training_data.backend import gpu_available, on_fastest, to_device, to_host
from training_data.dipole import convolve, dipole_kernel, forward_field
from training_data.inversion import invert, tikhonov, tv_admm
from training_data.volume import next_fast_shape

WEIGHTS = Path(__file__).resolve().parent.parent / "network_model" / "weights"


def compare(name: str, a, b, repeats: int) -> str:
    """A line of the table: median seconds of A and B, and the median of B/A."""
    a(), b()
    pairs = [(_seconds(a), _seconds(b)) for _ in range(repeats)]
    ratio = statistics.median(y / x for x, y in pairs)
    first, second = (statistics.median(column) for column in zip(*pairs, strict=True))
    return f"{name:<72} {first:9.3f} {second:9.3f} {ratio:8.2f}"


def _seconds(call) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def physics_rows(head: dict, voxel_size, repeats: int):
    """Field, FFT and inversions on the CPU; CuPy against NumPy where there is a GPU."""
    chi, mask = head["chi"], head["mask"]
    kernel = dipole_kernel(chi.shape, voxel_size)
    full = dipole_kernel(chi.shape, voxel_size, real=False)

    def real():
        return scipy.fft.irfftn(scipy.fft.rfftn(chi, workers=-1) * kernel, workers=-1)

    def complex128():
        return np.fft.ifftn(np.fft.fftn(chi.astype(np.complex128)) * full).real

    yield compare(
        "field: float32 real FFT, all cores | complex128, as in 2020", real, complex128, repeats
    )
    yield compare("field: circular | zero-padded to twice the size",
                  lambda: forward_field(chi, voxel_size, pad=False),
                  lambda: forward_field(chi, voxel_size), repeats)  # fmt: skip
    wide = next_fast_shape([2 * n for n in chi.shape])
    room = [(0, w - n) for w, n in zip(wide, chi.shape, strict=True)]
    yield compare("zero-padded field: axis by axis | padded volume transformed",
                  lambda: forward_field(chi, voxel_size),
                  lambda: convolve(np.pad(chi, room), dipole_kernel(wide, voxel_size)),
                  repeats)  # fmt: skip
    field = forward_field(chi, voxel_size) * mask
    in_one_slab = mock.patch.object(backend, "SLAB_BYTES", 2**40)(tv_admm)
    yield compare("TV by ADMM, 10 iterations: in slabs | on whole volumes",
                  lambda: tv_admm(field, mask, voxel_size, iterations=10),
                  lambda: in_one_slab(field, mask, voxel_size, iterations=10),
                  repeats)  # fmt: skip
    yield compare("TV by ADMM, 10 iterations: linear | nonlinear",
                  lambda: tv_admm(field, mask, voxel_size, iterations=10),
                  lambda: tv_admm(field, mask, voxel_size, iterations=10, nonlinear=True),
                  repeats)  # fmt: skip
    yield compare("TV by ADMM, 10 iterations: plain | guided by a map",
                  lambda: tv_admm(field, mask, voxel_size, iterations=10),
                  lambda: tv_admm(field, mask, voxel_size, iterations=10, guide=chi),
                  repeats)  # fmt: skip
    yield compare("Tikhonov | TV by ADMM, 25 iterations",
                  lambda: tikhonov(field, mask, voxel_size),
                  lambda: invert("tv", field, mask, voxel_size), repeats)  # fmt: skip


def gpu_rows(head: dict, voxel_size, repeats: int):
    """CuPy against SciPy, transfers included; nothing without a GPU."""
    if not gpu_available():
        return
    chi, mask = head["chi"], head["mask"]
    field = forward_field(chi, voxel_size) * mask
    yield compare(
        "zero-padded field: CuPy | SciPy",
        lambda: to_host(forward_field(to_device(chi, "gpu"), voxel_size)),
        lambda: forward_field(chi, voxel_size),
        repeats,
    )
    yield compare(
        "TV by ADMM: CuPy | SciPy",
        lambda: on_fastest(tv_admm)(field, mask, voxel_size),
        lambda: tv_admm(field, mask, voxel_size),
        repeats,
    )
    first = load_network(WEIGHTS / "first.h5")
    subject = make_subject(field, mask, voxel_size)
    known = scan_channels(first[1], subject)
    with keras.device("cpu:0"):
        second = load_network(WEIGHTS / "first.h5")

    def on_cpu():
        with keras.device("cpu:0"):
            predict(*second, subject, channels=known)

    yield compare("network of 16 filters, whole volume: GPU | CPU",
                  lambda: predict(*first, subject, channels=known), on_cpu, repeats)  # fmt: skip


def network_rows(head: dict, voxel_size, repeats: int):
    """A training step and a whole volume of some networks."""
    subject = make_subject(forward_field(head["chi"], voxel_size), head["mask"], voxel_size)
    plain = {**SPEC, "filters": 16, "depth": 4}
    specs = {
        "domain batch norm": make_spec(plain),
        "no norm": make_spec({**plain, "norm": "none"}),
        "gated, non-local": make_spec({**plain, "architecture": "nonlocal_gated"}),
    }
    first, *others = specs
    for other in others:
        yield compare(f"training step, 64³ patch: {first} | {other}",
                      trainer(specs[first]), trainer(specs[other]), repeats)  # fmt: skip
    two = {**plain, "norm": "none", "convs_per_level": 2}
    half = make_spec({**two, "filters": 32, "shuffle": 2, "tile": 64})
    yield compare("training step, two convolutions: 16 filters | 32 on half the grid",
                  trainer(make_spec(two)), trainer(half), repeats)  # fmt: skip
    spec = specs["no norm"]
    model = build_unet(spec, ("target",))
    yield compare("whole volume: one pass | tiles in 3 GB",
                  lambda: predict(model, spec, subject),
                  lambda: predict(model, spec, subject, 3.0), 2)  # fmt: skip
    second = build_unet(half, ("target",))
    # How far tiles overlap depends on a scan's errors; here they are not looked for.
    known = scan_channels(half, subject) | {SHARE: 0.0}
    yield compare("eight mirror images: 16 filters, whole | 32 on half the grid, 64³ tiles",
                  lambda: predict(model, spec, subject, mirrors=True, channels=known),
                  lambda: predict(second, half, subject, mirrors=True, channels=known),
                  2)  # fmt: skip


def trainer(spec: dict):
    """A function that does one training step on random numbers."""
    model = build_unet(spec, ("source",))
    model.compile("adam", {"source_chi": SourceL1()}, jit_compile=compiled())
    rng = np.random.default_rng(0)
    x = rng.standard_normal((1, 64, 64, 64, len(spec["inputs"])), np.float32)
    batch = {"source_x": x, "source_mask": np.ones_like(x[..., :1])}
    return lambda: model.train_on_batch(batch, {"source_chi": x[..., :1]})
