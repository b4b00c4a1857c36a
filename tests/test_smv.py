"""Spherical mean value operator: balls, any voxel size, no wrap-around, erosion."""

import numpy as np
import pytest

from training_data.shapes import sphere
from training_data.smv import SMV, erode

SHAPE, VOXEL = (23, 30, 18), (1.0, 0.8, 1.7)


def test_point_becomes_a_ball_of_weight_one():
    point = np.zeros(SHAPE, np.float32)
    point[11, 14, 9] = 1
    mean = SMV(SHAPE, VOXEL, 4.0)(point)
    ball = sphere(SHAPE, (11, 14, 9), 4.0, VOXEL)
    np.testing.assert_allclose(mean, ball / ball.sum(), atol=1e-6)
    assert mean.dtype == np.float32


def test_constant_stays_inside_and_falls_to_zero_padding_at_the_border():
    mean = SMV(SHAPE, VOXEL, 3.4)(np.ones(SHAPE))
    np.testing.assert_allclose(mean[3:-3, 4:-4, 2:-2], 1, atol=1e-6)
    assert mean[0].max() < 0.75


def test_linear_function_equals_its_mean():
    x = np.broadcast_to(np.arange(23.0)[:, None, None], SHAPE)
    np.testing.assert_allclose(SMV(SHAPE, VOXEL, 3.4)(x)[3:-3, 4:-4, 2:-2], x[3:-3, 4:-4, 2:-2],
                               atol=1e-4)  # fmt: skip


def test_no_wrap_around():
    x = np.zeros(SHAPE, np.float32)
    x[0, 0, 0] = 1
    assert np.abs(SMV(SHAPE, VOXEL, 3.4)(x)[-4:]).max() < 1e-6


def test_ball_erodes_to_the_ball_a_radius_smaller():
    shape = (41, 36, 30)
    mask = sphere(shape, (20, 17, 15), 14.0, (1, 1, 1.2))
    once, twice = erode(mask, (1, 1, 1.2), 3.0, times=2)
    for eroded, radius, times in ((once, 11.0, 1), (twice, 8.0, 2)):
        # No less than the smaller ball; a ball of voxels takes off up to half a voxel less.
        assert eroded[sphere(shape, (20, 17, 15), radius, (1, 1, 1.2))].all()
        outside = ~sphere(shape, (20, 17, 15), radius + 0.6 * times, (1, 1, 1.2))
        assert not eroded[outside].any()


def test_erosion_is_the_definition():
    rng = np.random.default_rng(0)
    mask = rng.random((20, 17, 15)) > 0.03
    direct = mask & (SMV(mask.shape, (1, 1, 1), 2.0)(mask) > 0.999)
    assert np.array_equal(erode(mask, (1, 1, 1), 2.0)[0], direct)
    assert direct.any()


def test_mask_at_the_border_is_eroded_there_and_zero_radius_changes_nothing():
    mask = np.ones((12, 9, 10), bool)
    assert np.array_equal(erode(mask, (1, 1, 1), 0)[0], mask)
    eroded = erode(mask, (1, 1, 1), 2.0)[0]
    assert eroded.sum() == 8 * 5 * 6


def test_radius_below_one_voxel_is_the_identity():
    x = np.random.default_rng(0).random((9, 8, 7)).astype(np.float32)
    np.testing.assert_allclose(SMV(x.shape, (2, 2, 2), 1.5)(x), x, atol=1e-6)


@pytest.mark.parametrize(
    ("voxel_size", "radius", "message"),
    [((1, 1, 0), 2, "voxel_size"), ((1, 1, 1), -1, "radius"), ((1, 1, 1), np.nan, "radius")],
)
def test_bad_input(voxel_size, radius, message):
    with pytest.raises(ValueError, match=message):
        SMV((8, 8, 8), voxel_size, radius)


def test_other_shape_and_empty_mask():
    with pytest.raises(ValueError, match="shape"):
        SMV((8, 8, 8), (1, 1, 1), 2)(np.zeros((8, 8, 9)))
    with pytest.raises(ValueError, match="empty"):
        erode(np.zeros((8, 8, 8), bool), (1, 1, 1), 2)


@pytest.mark.parametrize("radius", [1.4, 2.0, 5.0])
def test_weights_for_harmonic_fields_leave_them_as_they_are_on_anisotropic_voxels(radius):
    voxel_size = (1.0, 1.2, 1.4)
    axes = [(np.arange(n) - n // 2) * d for n, d in zip((30, 31, 28), voxel_size, strict=True)]
    x, y, z = np.meshgrid(*axes, indexing="ij", sparse=True)
    field = 1 / np.sqrt((x - 40) ** 2 + (y - 25) ** 2 + (z + 30) ** 2)
    inner = (slice(8, -8),) * 3
    left = {}
    for harmonic in (False, True):
        smv = SMV(field.shape, voxel_size, radius, harmonic=harmonic)
        left[harmonic] = np.abs(field - smv(field))[inner].max() / field[inner].mean()
        assert smv(np.ones_like(field))[inner].mean() == pytest.approx(1, abs=1e-5)
    assert left[True] < 0.1 * left[False]
