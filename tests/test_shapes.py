"""Solids: at the place asked for on grids that are no cubes, with the volume of the formula."""

import numpy as np
import pytest
from scipy import ndimage

from training_data import shapes

SHAPE, VOXEL = (40, 57, 33), (1.0, 0.8, 1.3)


def centroid(solid):
    return np.array(np.nonzero(solid)).mean(1)


@pytest.mark.parametrize(
    ("kind", "factor"), [("ellipsoid", 4 / 3 * np.pi), ("cuboid", 8), ("cylinder", 2 * np.pi)]
)
@pytest.mark.parametrize("angles", [(10, 20, 40), (30, 50, 70)])
def test_place_and_volume(kind, factor, angles):
    centre, semi_axes = (18, 31, 15), (9.0, 6.5, 8.0)
    solid = getattr(shapes, kind)(SHAPE, centre, semi_axes, angles, VOXEL)
    assert solid.shape == SHAPE
    assert solid.dtype == bool
    np.testing.assert_allclose(centroid(solid), centre, atol=0.05)
    volume = solid.sum() * np.prod(VOXEL)
    assert volume == pytest.approx(factor * np.prod(semi_axes), rel=0.02)


def test_straight_cuboid_is_a_box_of_voxels():
    expected = np.zeros(SHAPE, bool)
    expected[14:23, 24:39, 13:18] = True  # 4/1.0, 6/0.8 and 3/1.3 voxels to each side
    assert np.array_equal(shapes.cuboid(SHAPE, (18, 31, 15), (4, 6, 3), voxel_size=VOXEL), expected)


def test_sphere_reaches_its_radius_along_each_axis():
    solid = shapes.sphere(SHAPE, (18, 31, 15), 6.0, VOXEL)
    lengths = [np.any(solid, axis=tuple({0, 1, 2} - {a})).sum() for a in range(3)]
    assert lengths == [2 * int(6 / v + 1e-9) + 1 for v in VOXEL]
    assert solid[18 + 6, 31, 15]
    assert not solid[18, 31, 15 + 5]


def test_one_millimetre_sphere_is_seven_voxels():
    assert shapes.sphere((9, 11, 7), (4, 5, 3), 1).sum() == 7


def test_turn_moves_the_long_axis():
    straight = shapes.ellipsoid((31, 41, 27), (15, 20, 13), (10, 3, 3))
    turned = shapes.ellipsoid((31, 41, 27), (15, 20, 13), (10, 3, 3), (0, 0, 90))
    assert straight[25, 20, 13]
    assert not straight[15, 30, 13]
    assert turned[15, 30, 13]
    assert not turned[25, 20, 13]
    assert turned.sum() == straight.sum()


def test_turn_is_rigid_in_millimetres():
    # Turned by 45° on voxels of different edges, both ends stay 10 mm from the centre.
    solid = shapes.cylinder((60, 40, 20), (30, 20, 10), (1.2, 1.2, 10), (0, 90, 0), (0.5, 1, 2))
    reach = np.abs(np.nonzero(solid)[0] - 30).max() * 0.5
    assert reach == pytest.approx(10, abs=0.5)
    solid = shapes.cylinder((60, 40, 20), (30, 20, 10), (1.2, 1.2, 10), (45, 0, 0), (0.5, 1, 2))
    offsets = (np.array(np.nonzero(solid)).T - (30, 20, 10)) * (0.5, 1, 2)
    assert np.linalg.norm(offsets, axis=1).max() == pytest.approx(10, abs=0.8)
    # Euler angle about x: the third axis turns towards −y.
    assert (offsets[:, 1] * offsets[:, 2]).sum() < 0


def test_cut_at_the_border_and_outside():
    whole = shapes.sphere((21, 25, 23), (10, 12, 11), 5)
    corner = shapes.sphere((21, 25, 23), (0, 24, 22), 5)
    assert corner[0, 24, 22]
    assert 0 < corner.sum() < whole.sum() / 4
    assert not shapes.sphere((21, 25, 23), (-20, 0, 0), 5).any()


@pytest.mark.parametrize(
    ("semi_axes", "voxel_size", "message"),
    [((1, 0, 1), (1, 1, 1), "semi_axes"), ((1, 1), (1, 1, 1), "semi_axes"),
     ((1, 1, 1), (1, -1, 1), "voxel_size")],
)  # fmt: skip
def test_bad_input(semi_axes, voxel_size, message):
    with pytest.raises(ValueError, match=message):
        shapes.ellipsoid((9, 9, 9), (4, 4, 4), semi_axes, voxel_size=voxel_size)


@pytest.mark.parametrize("radius", [0.3, 1.0, 2.5])
def test_straight_tube_has_the_area_of_its_circle(radius):
    path = np.stack([np.full(200, 20.3), np.full(200, 28.7), np.linspace(-5, 40, 200)], 1)
    cover = shapes.tube((40, 57, 33), path, radius)
    area = cover[:, :, 16].sum()
    assert area == pytest.approx(np.pi * radius**2, rel=0.1)
    assert cover.max() <= 1
    centre = ndimage.center_of_mass(cover[:, :, 16])
    np.testing.assert_allclose(centre, (20.3, 28.7), atol=0.1)


def test_curved_path_is_dense_smooth_and_of_the_length_asked_for():
    path = shapes.curved_path((5, 6, 7), 60, np.random.default_rng(3), VOXEL)
    np.testing.assert_allclose(path[0], (5, 6, 7))
    steps = np.linalg.norm(np.diff(path, axis=0), axis=1)
    assert steps.max() < 0.5
    millimetres = np.linalg.norm(np.diff(path, axis=0) * VOXEL, axis=1).sum()
    assert millimetres == pytest.approx(60, rel=0.25)
    again = shapes.curved_path((5, 6, 7), 60, np.random.default_rng(3), VOXEL)
    assert np.array_equal(path, again)
