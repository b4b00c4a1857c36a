"""Augmentation: the elastic transform's formulas, the contrasts by hand, sources in their mask."""

import numpy as np
import pytest
from scipy import ndimage

from training_data import augment
from training_data.randomlabels import lattice_noise, make_random_labels

SHAPE = (24, 31, 19)


@pytest.fixture
def rng():
    return np.random.default_rng(5)


@pytest.fixture
def volume():
    x = np.zeros(SHAPE, np.float32)
    x[5:19, 6:24, 4:15] = np.random.default_rng(1).normal(1, 0.2, (14, 18, 11))
    return x


def test_smooth_noise_is_the_gaussian_filter_of_uniform_noise():
    noise = np.random.default_rng(2).random(SHAPE, dtype=np.float32) * 2 - 1
    direct = ndimage.gaussian_filter(noise, 2.48, mode="constant")
    ours = augment.smooth_noise(SHAPE, 2.48, np.random.default_rng(2))
    np.testing.assert_allclose(ours, direct, atol=1e-6)
    assert ours.dtype == np.float32


@pytest.mark.parametrize("mode", ["inplane", "3d", "none"])
def test_elastic_without_strength_is_the_identity(volume, rng, mode):
    out = augment.elastic(volume, rng, mode, alpha=0, affine=0)
    np.testing.assert_array_equal(out, volume)


@pytest.mark.parametrize("axes", [2, 3])
def test_affine_takes_moved_corners_back(rng, axes):
    shape = SHAPE[:axes]
    matrix, offset = augment.random_affine(shape, 0.1, rng)
    fixed = np.array(shape) // 2 + np.array(shape) // 3 * augment._SIMPLEX[axes]
    moved = (fixed - offset) @ np.linalg.inv(matrix).T
    assert (np.abs(moved - fixed).max(0) <= 0.1 * np.array(shape) + 1e-9).all()
    assert (np.abs(moved - fixed).max(0) > 0.02 * np.array(shape)).all()


@pytest.mark.parametrize("mode", ["inplane", "3d"])
@pytest.mark.parametrize("shape", [(64, 64, 10), (64, 64, 4), (10, 64, 64), (12, 60, 24)])
def test_affine_of_few_slices_is_as_mild_as_that_of_a_cube(monkeypatch, shape, mode):
    """Not a grid squeezed flat, or turned inside out, as where its corners move past each other."""

    def determinants(grid):
        rng, drawn = np.random.default_rng(3), []
        monkeypatch.setattr(
            augment.ndimage, "affine_transform", lambda x, matrix, *_, **__: drawn.append(matrix)
        )
        for _ in range(400):
            augment.elastic(np.zeros(grid, np.float32), rng, mode, alpha=0)
        return np.array([np.linalg.det(matrix) for matrix in drawn])

    found, cube = determinants(shape), determinants((63, 63, 63))
    assert found.min() > 0.2
    assert found.max() < 1.5 * cube.max()


def test_affine_of_a_cube_is_that_of_one_size_for_all_axes():
    for n, axes in ((160, 3), (160, 2), (41, 3)):
        matrix, offset = augment.random_affine((n,) * axes, 0.08, np.random.default_rng(2))
        fixed = n // 2 + n // 3 * augment._SIMPLEX[axes]
        moved = fixed + np.random.default_rng(2).uniform(-0.08 * n, 0.08 * n, fixed.shape)
        solution = np.linalg.solve(np.column_stack([moved, np.ones(axes + 1)]), fixed)
        np.testing.assert_array_equal(matrix, solution[:-1].T)
        np.testing.assert_array_equal(offset, solution[-1])


def test_elastic_is_the_formula(volume):
    """The release's two interpolations, written out plane by plane."""
    out = augment.elastic(volume, np.random.default_rng(8), "inplane", 2.0, 0.08, 0.08)
    rng, n = np.random.default_rng(8), SHAPE[1]
    matrix, offset = augment.random_affine(SHAPE[:2], 0.08, rng)
    dx, dy = (
        2.0 * n * ndimage.gaussian_filter(
            rng.random(SHAPE, dtype=np.float32) * 2 - 1, 0.08 * n, mode="constant")
        for _ in range(2)
    )  # fmt: skip
    x, y = np.meshgrid(np.arange(SHAPE[0]), np.arange(SHAPE[1]), indexing="ij")
    for z in range(SHAPE[2]):
        plane = ndimage.affine_transform(volume[:, :, z], matrix, offset, order=1, mode="mirror")
        points = [x + dx[:, :, z], y + dy[:, :, z]]
        expected = ndimage.map_coordinates(plane, points, order=1, mode="constant")
        np.testing.assert_allclose(out[:, :, z], expected, atol=2e-4)
    assert np.abs(out - volume).max() > 0.1


def test_elastic_in_plane_moves_nothing_along_z(volume, rng):
    out = augment.elastic(volume, rng)
    assert not out[:, :, :4].any()
    assert not out[:, :, 15:].any()
    assert out[:, :, 4].any()
    assert out[:, :, 14].any()
    columns = np.zeros(SHAPE, np.float32) + np.arange(1, SHAPE[2] + 1, dtype=np.float32)
    inner = augment.elastic(columns, rng)[9:15, 12:19]
    np.testing.assert_allclose(inner, np.broadcast_to(columns[0, 0], inner.shape), atol=1e-4)


def test_elastic_3d_moves_along_z(rng):
    columns = np.zeros(SHAPE, np.float32) + np.arange(1, SHAPE[2] + 1, dtype=np.float32)
    assert np.abs(augment.elastic(columns, rng, "3d") - columns)[9:15, 12:19, 6:13].max() > 0.2


def test_displacement_by_whole_voxels_is_a_shift_with_zeros(volume):
    shift = [np.full(SHAPE, s, np.float32) for s in (3, -2)]
    out = augment.displace(volume, shift)
    expected = np.zeros(SHAPE, np.float32)
    expected[:-3, 2:] = volume[3:, :-2]
    np.testing.assert_allclose(out, expected, atol=1e-6)


@pytest.mark.parametrize("kwargs", [{"mode": "2d"}, {"alpha": -1}, {"sigma": 0}])
def test_elastic_bad_input(volume, rng, kwargs):
    with pytest.raises(ValueError, match="elastic"):
        augment.elastic(volume, rng, **kwargs)


@pytest.mark.parametrize(
    ("kind", "x", "expected"),
    [  # c = 1.2, k = 0.45, worked out by hand
        ("none", 0.09, 0.09),
        ("linear", 0.09, 0.108),
        # 0.3·(0.8^1.2 − 0.5^1.2) = 0.3·(0.765082 − 0.435275)
        ("gamma", 0.09, 0.0989421),
        # |−0.21 + 0.15|/0.3 = 0.2; 0.3·(0.2^1.2 − 0.5^1.2) = 0.3·(0.144956 − 0.435275)
        ("gamma", -0.21, -0.0870957),
        # 0.12·log2(1.9) = 0.12·0.925999
        ("log", 0.09, 0.1111199),
        ("log", -0.3, -0.24),
        # g = 5.2: 0.3/(1 + e^{5.2·(−0.35)}) − 0.3/(1 + e^{5.2·(−0.05)}) = 0.3·(0.860572 − 0.564636)
        ("sigmoid", 0.09, 0.0887807),
    ],
)
def test_contrast_by_hand(kind, x, expected):
    out = augment.adjust_contrast(np.array([x], np.float32), kind, 1.2, 0.45)
    assert float(out[0]) == pytest.approx(expected, abs=2e-6)


@pytest.mark.parametrize("kind", augment.CONTRASTS)
def test_contrast_keeps_zero_and_type(kind):
    out = augment.adjust_contrast(np.zeros(4, np.float32), kind, 0.87, 0.53)
    np.testing.assert_allclose(out, 0, atol=1e-7)
    assert out.dtype == np.float32


def test_drawn_contrasts_have_the_chances_and_spread_of_the_release(rng):
    drawn = [augment.draw_contrast(rng) for _ in range(6000)]
    for kind, chance in zip(augment.CONTRASTS, (1, 1, 1, 1, 2), strict=True):
        share = np.mean([d["kind"] == kind for d in drawn])
        assert share == pytest.approx(chance / 6, abs=0.02)
    for key, mean, sd in (("c", 1, 0.1), ("k", 0.5, 0.05)):
        values = [d[key] for d in drawn]
        assert np.mean(values) == pytest.approx(mean, abs=0.01)
        assert np.std(values) == pytest.approx(sd, rel=0.05)


@pytest.mark.parametrize("kinds", [[], ["cubic"]])
def test_contrast_bad_input(rng, kinds):
    with pytest.raises(ValueError, match="contrast"):
        augment.draw_contrast(rng, kinds)
    with pytest.raises(ValueError, match="cubic"):
        augment.adjust_contrast(np.zeros(3), "cubic", 1)


@pytest.mark.parametrize("shape", ["ellipsoid", "sphere", "cuboid", "cylinder"])
def test_source_lies_in_its_mask(volume, rng, shape):
    mask = volume != 0
    for _ in range(10):
        solid, drawn = augment.random_source(mask, (1, 0.9, 1.4), rng, {shape: 1})
        assert solid.any()
        assert not solid[~mask].any()
        assert solid[tuple(drawn["centre"])]
        assert all(1 <= a <= 5 and isinstance(a, int) for a in drawn["semi_axes_mm"])


def test_source_chances(volume, rng):
    chances = {"ellipsoid": 0.25, "sphere": 0.25, "none": 0.5}
    drawn = [
        augment.random_source(volume != 0, (1, 1, 1), rng, chances)[1]["shape"] for _ in range(800)
    ]
    for kind, chance in chances.items():
        assert drawn.count(kind) / 800 == pytest.approx(chance, abs=0.06)


@pytest.mark.parametrize("chances", [{"cone": 1}, {"sphere": 0}, {"sphere": -1, "none": 2}, {}])
def test_source_bad_chances(volume, rng, chances):
    with pytest.raises(ValueError, match="source shapes"):
        augment.random_source(volume != 0, (1, 1, 1), rng, chances)


def test_source_in_an_empty_mask(rng):
    with pytest.raises(ValueError, match="mask"):
        augment.random_source(np.zeros(SHAPE, bool), (1, 1, 1), rng, {"sphere": 1})


def test_centres_reach_every_voxel_of_the_mask(rng):
    mask = np.zeros((3, 4, 5), bool)
    mask[0, 0, 0] = mask[2, 3, 4] = True
    centres = {tuple(augment.random_voxel(mask, rng)) for _ in range(50)}
    assert centres == {(0, 0, 0), (2, 3, 4)}


def test_veins_stay_in_the_mask_and_between_their_values(volume, rng):
    mask = volume != 0
    chi = np.zeros(SHAPE, np.float32)
    drawn = augment.add_veins(chi, mask, (1, 1, 1), rng, 6)
    assert len(drawn) == 6
    assert not chi[~mask].any()
    assert chi.min() >= 0
    assert 0.05 < chi.max() <= 0.45


def test_damaged_mask_is_smaller(volume, rng):
    mask = volume != 0
    damaged = [augment.damage_mask(mask, rng, erosion=3, holes=3) for _ in range(20)]
    assert {d[1]["erosion_voxels"] for d in damaged} == {0, 1, 2, 3}
    assert {d[1]["holes"] for d in damaged} == {0, 1, 2, 3}
    assert all(not d[0][~mask].any() for d in damaged)
    assert np.array_equal(augment.damage_mask(mask, rng)[0], mask)
    for seed in range(4):  # on half the edge it is the same damage
        rngs = [np.random.default_rng(seed) for _ in range(2)]
        fine = np.kron(mask, np.ones((2, 2, 2))) > 0
        once, record = augment.damage_mask(mask, rngs[0], erosion=3)
        twice, same = augment.damage_mask(fine, rngs[1], erosion=3, times=2)
        assert record == same
        assert np.array_equal(twice[::2, ::2, ::2], once)


def test_tilt_turns_by_the_angle(rng):
    b0 = np.array([0.0, 0.6, 0.8])
    angles = []
    for _ in range(200):
        turned, angle = augment.tilt(b0, 30, rng)
        assert np.linalg.norm(turned) == pytest.approx(1)
        assert np.degrees(np.arccos(np.dot(turned, b0))) == pytest.approx(angle, abs=1e-5)
        angles.append(angle)
    assert 25 < max(angles) <= 30
    np.testing.assert_allclose(augment.tilt(b0, 0, rng)[0], b0)


def test_largest_component():
    mask = np.zeros(SHAPE, bool)
    mask[2:9, 3:9, 2:8] = True
    big = mask.copy()
    mask[20:23, 20:25, 10:14] = True
    assert np.array_equal(augment.largest_component(mask), big)
    with pytest.raises(ValueError, match="empty"):
        augment.largest_component(np.zeros(SHAPE, bool))


def test_lattice_noise_is_standardised_and_smooth(rng):
    field = lattice_noise((40, 48, 36), (5, 4, 6), rng)
    assert field.std() == pytest.approx(1, abs=0.15)
    assert np.abs(np.diff(field, axis=0)).mean() < 0.5


def test_random_labels_resemble_a_map():
    for seed in range(3):
        chi, mask = make_random_labels((44, 48, 40), (3.2, 3.2, 3.2), np.random.default_rng(seed))
        again, _ = make_random_labels((44, 48, 40), (3.2, 3.2, 3.2), np.random.default_rng(seed))
        assert np.array_equal(chi, again)
        assert chi.dtype == np.float32
        assert not chi[~mask].any()
        assert 0.1 < mask.mean() < 0.6
        values = chi[mask]
        assert abs(values.mean()) < 1e-5
        assert 0.01 < values.std() < 0.08
        assert values.max() > 0.1
