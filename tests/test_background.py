"""What is left of a background field is found, and no source is taken for it."""

import numpy as np
import pytest
from scipy import ndimage

from training_data.background import background, harmonics
from training_data.dipole import forward_field
from training_data.phantom import make_head
from training_data.shapes import sphere

SHAPE, VOXEL, B0 = (79, 93, 71), (1.8, 1.7, 2.2), (0.2, -0.1, 0.97)
GEOMETRY = (VOXEL, B0)


@pytest.fixture(scope="module")
def head():
    """Noisy field and mask of an oblique, anisotropic head on an odd grid."""
    made = make_head(SHAPE, VOXEL, np.random.default_rng(11))
    noise = np.random.default_rng(1).normal(0, 0.003, SHAPE)
    field = (forward_field(made["chi"], *GEOMETRY) + noise) * made["mask"]
    return field.astype(np.float32), made["mask"]


def course(number: int, mask, ppm: float):
    """One harmonic of a root mean square of `ppm` in the mask, float32."""
    start = [-n * v / 2 for n, v in zip(SHAPE, VOXEL, strict=True)]
    found = harmonics(SHAPE, VOXEL, start)[number]
    return found * np.float32(ppm / np.sqrt((found[mask] ** 2).mean()))


@pytest.mark.parametrize("number", range(9))
def test_harmonics_are_harmonic_and_in_millimetres(number):
    size = (1.5, 2.0, 2.5)
    found = harmonics((12, 11, 10), size, (-8.0, -9.0, -10.0))[number].astype(float)
    laplacian = sum(
        np.gradient(np.gradient(found, v, axis=axis), v, axis=axis) for axis, v in enumerate(size)
    )
    assert np.abs(laplacian[2:-2, 2:-2, 2:-2]).max() < 1e-6
    other = harmonics((12, 11, 10), (3.0, 4.0, 5.0), (-16.0, -18.0, -20.0))[number]
    order = [0, 1, 1, 1, 2, 2, 2, 2, 2][number]
    np.testing.assert_allclose(other, found * 2**order, rtol=1e-5, atol=1e-6)


def test_head_without_background_keeps_its_field(head):
    field, mask = head
    assert not background(field, mask, *GEOMETRY).any()
    assert not background(0 * field, mask, *GEOMETRY).any()


@pytest.mark.parametrize("number", [0, 1, 2, 3])
@pytest.mark.parametrize("ppm", [0.006, -0.05])
def test_offset_and_slope_are_found(head, number, ppm):
    field, mask = head
    added = course(number, mask, ppm)
    left = (background(field + added * mask, mask, *GEOMETRY) - added)[mask]
    assert np.sqrt((left**2).mean()) < 0.0008


@pytest.mark.parametrize("number", [4, 7, 8])
def test_second_order_is_found(head, number):
    field, mask = head
    added = course(number, mask, 0.02)
    left = (background(field + added * mask, mask, *GEOMETRY) - added)[mask]
    assert np.sqrt((left**2).mean()) < 0.003


def test_offset_and_slope_at_once(head):
    field, mask = head
    added = 0.5 + course(1, mask, 0.02) - course(3, mask, 0.03)
    left = (background(field + added * mask, mask, *GEOMETRY) - added)[mask]
    assert np.sqrt((left**2).mean()) < 0.001


def test_scale_and_place_on_the_grid_change_nothing(head):
    field, mask = head
    field = field + 0.01 * mask
    found = background(field, mask, *GEOMETRY)
    np.testing.assert_allclose(background(7 * field, mask, *GEOMETRY), 7 * found, rtol=1e-4)
    widths = ((5, 0), (0, 7), (3, 2))
    moved = background(np.pad(field, widths), np.pad(mask, widths), *GEOMETRY)
    np.testing.assert_allclose(moved[5:, :-7, 3:-2][mask], found[mask], rtol=1e-4, atol=1e-7)


def test_strong_source_at_the_rim_is_no_background(head):
    field, mask = head
    rim = np.argwhere(mask & ~ndimage.binary_erosion(mask, iterations=3))
    ball = sphere(SHAPE, rim[len(rim) // 3], 6.0, VOXEL) & mask
    source = forward_field((1.5 * ball).astype(np.float32), *GEOMETRY) * mask
    found = background(field + source, mask, *GEOMETRY)
    assert np.sqrt((found[mask] ** 2).mean()) < 0.0005


def slab(slices, axis, shape=(48, 56, 44)):
    """Noisy field of a slab of random tissue at 1 mm, and its mask, inside the grid by 3 voxels."""
    rng, mask = np.random.default_rng(slices), np.zeros(shape, bool)
    inner = [slice(3, n - 3) for n in shape]
    inner[axis] = slice(3, 3 + slices)
    mask[tuple(inner)] = True
    chi = ndimage.gaussian_filter(rng.standard_normal(shape), 2).astype(np.float32) * mask
    field = forward_field(chi, (1.0, 1.0, 1.0)) + 0.002 * rng.standard_normal(shape)
    return np.where(mask, field, 0).astype(np.float32), mask


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("slices", [4, 5, 6, 7, 8])
def test_thin_slabs_lose_nothing_that_cannot_be_told_apart(slices, axis):
    field, mask = slab(slices, axis)
    found = background(field + 0.01 * mask, mask, (1.0, 1.0, 1.0))
    assert np.abs(found[mask]).max() < 0.05
    assert slices > 7 or not found.any()  # one coarse layer: an offset is what a uniform χ makes


def test_rods_lose_nothing():
    """Two coarse layers along two axes: x² − y² and 2z² − x² − y² are one shape."""
    field, mask = slab(10, 0)
    mask[:, 13:] = False
    assert not background(field * mask, mask, (1.0, 1.0, 1.0)).any()


def test_mask_of_a_few_voxels_is_left_alone():
    mask = np.zeros((9, 9, 9), bool)
    mask[3:6, 3:6, 3:6] = True
    field = np.where(mask, 0.3, 0).astype(np.float32)
    assert not background(field, mask, (1.0, 1.0, 1.0)).any()
