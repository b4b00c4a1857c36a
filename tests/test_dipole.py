"""The forward model: analytic fields, properties of the kernel, adjoints, NumPy = CuPy."""

import os

import numpy as np
import pytest
from scipy.special import erfc

from training_data.backend import cores, gpu_available, to_device, to_host
from training_data.dipole import (
    convolve,
    dipole_kernel,
    field_inside,
    forward_field,
    gradient,
)
from training_data.volume import next_fast_shape

GRIDS = [((48, 45, 40), (1.0, 1.2, 1.5)), ((40, 45, 48), (1.0, 0.8, 1.3))]
DIRECTIONS = {"straight": (0.0, 0.0, 1.0), "tilted": (0.1, 0.2, 0.97), "oblique": (0.3, -0.5, 0.8)}
SHAPES = [(12, 10, 9), (11, 8, 12), (9, 13, 11)]
RADIUS = 9.0  # of the test sphere [mm]

grids = pytest.mark.parametrize(("shape", "voxel_size"), GRIDS)
directions = pytest.mark.parametrize("b0_dir", DIRECTIONS.values(), ids=DIRECTIONS)
shapes = pytest.mark.parametrize("shape", SHAPES)


def positions(shape, voxel_size):
    """Places of voxels relative to the middle of the grid, (X, Y, Z, 3) [mm]."""
    axes = [(np.arange(n) - (n - 1) / 2) * d for n, d in zip(shape, voxel_size, strict=True)]
    return np.stack(np.meshgrid(*axes, indexing="ij"), -1)


def dipole_field(place, b0_dir, moment):
    """Field of a magnetised ball outside it [ppm]; moment: χ times volume [ppm mm³]."""
    b = np.asarray(b0_dir) / np.linalg.norm(b0_dir)
    r = np.maximum(np.linalg.norm(place, axis=-1), 1e-9)
    return moment / (4 * np.pi) * (3 * (place @ b / r) ** 2 - 1) / r**3


@grids
@directions
def test_field_of_a_sphere_is_the_analytic_one(shape, voxel_size, b0_dir):
    place = positions(shape, voxel_size)
    r = np.linalg.norm(place, axis=-1)
    # An edge that the grid can show; outside and inside of it the field is that of a sharp ball.
    width = 0.75 * max(voxel_size)
    chi = (erfc((r - RADIUS) / (width * 2**0.5)) / 2).astype(np.float32)
    field = forward_field(chi, voxel_size, b0_dir)
    assert field.shape == shape
    assert field.dtype == np.float32
    expected = dipole_field(place, b0_dir, chi.sum() * np.prod(voxel_size))
    outside, inside = r > RADIUS + 3 * width, r < RADIUS - 3 * width
    assert np.abs(field - expected)[outside].max() < 0.02 * np.abs(expected[outside]).max()
    assert np.abs(field[inside]).max() < 0.005


@grids
def test_field_of_a_sharp_sphere_with_partial_volume(shape, voxel_size):
    steps, fine = 4, np.asarray(voxel_size) / 4
    r = np.linalg.norm(positions([n * steps for n in shape], fine), axis=-1) <= RADIUS
    blocks = [m for n in shape for m in (n, steps)]
    chi = r.reshape(blocks).mean((1, 3, 5), dtype=np.float32)
    field = forward_field(chi, voxel_size)
    place = positions(shape, voxel_size)
    r = np.linalg.norm(place, axis=-1)
    expected = dipole_field(place, (0, 0, 1), 4 / 3 * np.pi * RADIUS**3)
    outside, inside = r > RADIUS + 1.5 * max(voxel_size), r < RADIUS - 2 * max(voxel_size)
    assert np.abs(field - expected)[outside].max() < 0.04 * np.abs(expected[outside]).max()
    assert abs(field[inside].mean()) < 0.005
    assert np.abs(field[inside]).max() < 0.01


@shapes
@directions
def test_dot_test_of_the_convolution(shape, b0_dir):
    rng = np.random.default_rng(1)
    x, y = rng.standard_normal((2, *shape), np.float32)
    kernel = dipole_kernel(shape, (1.0, 1.3, 0.7), b0_dir)
    left, right = np.vdot(convolve(x, kernel), y), np.vdot(x, convolve(y, kernel))
    assert left == pytest.approx(right, rel=1e-4, abs=1e-3)
    left, right = (
        np.vdot(forward_field(a, (1.0, 1.3, 0.7), b0_dir), b) for a, b in ((x, y), (y, x))
    )
    assert left == pytest.approx(right, rel=1e-4, abs=1e-3)


@shapes
@directions
def test_kernel_has_its_range_and_no_mean(shape, b0_dir):
    kernel = dipole_kernel(shape, (1.0, 1.3, 0.7), b0_dir, real=False)
    assert kernel.dtype == np.float32
    assert kernel.shape == shape
    assert kernel[0, 0, 0] == 0
    assert kernel.min() >= -2 / 3 - 1e-6
    assert kernel.max() <= 1 / 3 + 1e-6


@shapes
@directions
def test_kernel_is_symmetric_and_half_of_the_full_one(shape, b0_dir):
    full = dipole_kernel(shape, (1.0, 1.3, 0.7), b0_dir, real=False)
    mirrored = np.roll(full[::-1, ::-1, ::-1], 1, axis=(0, 1, 2))
    np.testing.assert_allclose(full, mirrored, atol=1e-6)
    half = dipole_kernel(shape, (1.0, 1.3, 0.7), b0_dir)
    np.testing.assert_allclose(half, full[..., : shape[2] // 2 + 1], atol=1e-6)


@shapes
@directions
def test_half_spectrum_convolves_as_the_full_one(shape, b0_dir):
    x = np.random.default_rng(2).standard_normal(shape)
    full = dipole_kernel(shape, (1.0, 1.3, 0.7), b0_dir, real=False)
    expected = np.fft.ifftn(np.fft.fftn(x) * full)
    assert np.abs(expected.imag).max() < 1e-6
    found = convolve(x.astype(np.float32), dipole_kernel(shape, (1.0, 1.3, 0.7), b0_dir))
    np.testing.assert_allclose(found, expected.real, atol=1e-5)


def test_kernel_on_the_axes_of_b0():
    kernel = dipole_kernel((6, 5, 7), (1, 1.5, 2), (0, 2, 0), real=False)
    assert kernel[0, 1, 0] == pytest.approx(-2 / 3, abs=1e-6)
    assert kernel[1, 0, 0] == pytest.approx(1 / 3, abs=1e-6)
    diagonal = dipole_kernel((6, 6, 6), (1, 1, 1), real=False)[1, 1, 1]
    assert diagonal == pytest.approx(0, abs=1e-6)  # the magic angle


def test_padding_keeps_the_field_from_wrapping_around():
    shape, voxel_size = (20, 17, 24), (1.0, 1.4, 0.9)
    chi = np.zeros(shape, np.float32)
    chi[17:19, 2:4, 20:23] = 1
    wide = np.zeros((60, 51, 72), np.float32)
    wide[:20, :17, :24] = chi
    reference = forward_field(wide, voxel_size)[:20, :17, :24]
    spread = np.abs(reference).max()
    padded = np.abs(forward_field(chi, voxel_size) - reference).max() / spread
    circular = np.abs(forward_field(chi, voxel_size, pad=False) - reference).max() / spread
    assert padded < 0.01
    assert circular > 5 * padded
    kernel = dipole_kernel(shape, voxel_size)
    found = forward_field(chi, voxel_size, pad=False)
    np.testing.assert_allclose(found, convolve(chi, kernel), atol=1e-6)


@shapes
@directions
def test_padding_axis_by_axis_is_a_convolution_of_the_padded_volume(shape, b0_dir):
    chi = np.random.default_rng(6).standard_normal(shape, np.float32)
    wide = np.zeros(next_fast_shape([2 * n for n in shape]), np.float32)
    wide[tuple(slice(n) for n in shape)] = chi
    expected = convolve(wide, dipole_kernel(wide.shape, (1.0, 1.3, 0.8), b0_dir))
    found = forward_field(chi, (1.0, 1.3, 0.8), b0_dir)
    np.testing.assert_allclose(found, expected[tuple(slice(n) for n in shape)], atol=1e-6)


@grids
@directions
def test_field_inside_a_mask_needs_its_box_only(shape, voxel_size, b0_dir):
    place = positions(shape, voxel_size) - [2.0, 1.0, -3.0]
    mask = (place**2).sum(-1) < 15**2
    chi = np.cos(place.sum(-1) / 4).astype(np.float32)  # not zero outside the mask
    expected = forward_field(chi * mask, voxel_size, b0_dir) * mask
    found = field_inside(chi, mask, voxel_size, b0_dir)
    assert found.dtype == np.float32
    assert not found[~mask].any()
    # The same sampled kernel on another grid: its images lie elsewhere.
    np.testing.assert_allclose(found, expected, atol=0.02 * np.abs(expected).max())


@directions
def test_flips_of_chi_and_of_b0_commute(b0_dir):
    shape, voxel_size = (12, 11, 9), (1.0, 1.3, 0.7)
    chi = np.random.default_rng(3).standard_normal(shape, np.float32)
    for axis in range(3):
        turned = np.array(b0_dir)
        turned[axis] *= -1
        field = forward_field(np.flip(chi, axis), voxel_size, turned)
        expected = np.flip(forward_field(chi, voxel_size, b0_dir), axis)
        np.testing.assert_allclose(field, expected, atol=1e-5)


def divergence(g, voxel_size):
    """Backward differences of (3, X, Y, Z) with nothing beyond the last one, summed."""
    out = np.zeros(g.shape[1:])
    for axis, d in enumerate(voxel_size):
        step = np.moveaxis(g[axis], axis, 0)[:-1] / d
        view = np.moveaxis(out, axis, 0)
        view[:-1] += step
        view[1:] -= step
    return out


@shapes
def test_divergence_is_the_negative_adjoint_of_the_gradient(shape):
    rng = np.random.default_rng(4)
    x, g = rng.standard_normal(shape), rng.standard_normal((3, *shape))
    voxel_size = (0.8, 1.0, 1.7)
    left = np.vdot(gradient(x, voxel_size), g)
    assert left == pytest.approx(-np.vdot(x, divergence(g, voxel_size)), rel=1e-10)


def test_gradient_of_a_ramp():
    ramp = positions((5, 6, 7), (0.5, 1, 2)) @ np.array([1.0, 2.0, 3.0])
    g = gradient(ramp, (0.5, 1, 2))
    for axis, slope in enumerate((1, 2, 3)):
        inner = np.moveaxis(g[axis], axis, 0)
        np.testing.assert_allclose(inner[:-1], slope)
        assert not inner[-1].any()


@pytest.mark.parametrize("b0_dir", [(0, 0, 0), (0, 1), (np.nan, 0, 1), (0, 0, "x")])
def test_bad_directions(b0_dir):
    with pytest.raises(ValueError, match="b0_dir"):
        dipole_kernel((4, 5, 6), (1, 1, 1), b0_dir)


@pytest.mark.parametrize("voxel_size", [(1, 1), (1, 0, 1), (1, -1, 1), 2, (1, np.nan, 1), "x"])
def test_bad_voxel_sizes(voxel_size):
    with pytest.raises(ValueError, match="voxel_size"):
        dipole_kernel((4, 5, 6), voxel_size)


@pytest.mark.parametrize(("told", "number"), [("3", 3), ("2,4", 2), ("0", None), ("many", None)])
def test_cores_are_as_many_as_one_is_told_or_given(monkeypatch, told, number):
    monkeypatch.setenv("OMP_NUM_THREADS", told)
    given = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    assert cores() == (number or given)


def test_devices():
    assert to_device([1, 2], "cpu").dtype == int
    with pytest.raises(ValueError, match="expected one of auto, cpu, gpu"):
        to_device([1, 2], "tpu")


@pytest.mark.skipif(gpu_available(), reason="there is a GPU")
def test_a_gpu_that_is_missing_is_an_error():
    with pytest.raises(ValueError, match="pip install cupy"):
        to_device([1, 2], "gpu")
    assert isinstance(to_device(np.ones(2), "auto"), np.ndarray)


@pytest.mark.gpu
@grids
@directions
@pytest.mark.parametrize("pad", [True, False])
def test_gpu_gives_the_same_field(shape, voxel_size, b0_dir, pad):
    cupy = pytest.importorskip("cupy")
    chi = np.random.default_rng(5).standard_normal(shape, np.float32)
    found = forward_field(to_device(chi, "gpu"), voxel_size, b0_dir, pad)
    assert isinstance(found, cupy.ndarray)
    np.testing.assert_allclose(
        to_host(found), forward_field(chi, voxel_size, b0_dir, pad), atol=1e-5
    )
    g = gradient(to_device(chi, "gpu"), voxel_size)
    np.testing.assert_allclose(to_host(g), gradient(chi, voxel_size), atol=1e-5)
