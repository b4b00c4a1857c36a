"""Noise of a field: its size, its place, and how well it is found again."""

import numpy as np
import pytest
from scipy import ndimage

from training_data import noise
from training_data.channels import CHANNELS, check_inputs, extra_channels, make_channels
from training_data.dipole import forward_field
from training_data.noise import (
    add_complex_noise,
    add_course,
    add_model_errors,
    error_and_signal,
    estimate_noise,
    local_noise,
    smooth_noise,
    structured_noise,
    white_noise,
)
from training_data.phantom import make_head

SHAPE, VOXEL = (41, 48, 38), (4.0, 3.7, 4.4)
DIRECTIONS = [(0.0, 0.0, 1.0), (0.3, -0.2, 0.93)]


@pytest.fixture(scope="module")
def head():
    return make_head(SHAPE, VOXEL, np.random.default_rng(3))


def test_a_course_is_harmonic_and_as_large_as_asked_for(head):
    mask = head["mask"]
    field = np.random.default_rng(1).standard_normal(SHAPE, np.float32)
    rng = np.random.default_rng(2)
    courses = [add_course(field, mask, VOXEL, 0.1, rng) - field * mask for _ in range(4)]
    for course in courses:
        assert not course[~mask].any()
        assert np.sqrt((course[mask] ** 2).mean()) == pytest.approx(0.1, rel=1e-3)
        curves = [np.diff(course, 2, axis) / v**2 for axis, v in enumerate(VOXEL)]
        inner = [slice(1, -1)] * 3
        laplacian = sum(
            c[tuple(s if i != axis else slice(None) for i, s in enumerate(inner))]
            for axis, c in enumerate(curves)
        )
        deep = ndimage.binary_erosion(mask)[1:-1, 1:-1, 1:-1]
        size = max(np.abs(c).max() for c in curves)
        assert np.abs(laplacian[deep]).max() < 1e-3 * size + 1e-6
    assert np.abs(np.corrcoef([c[mask] for c in courses])[0, 1:]).max() < 0.999


@pytest.mark.parametrize("sigma", [0.003, 0.02])
def test_noise_has_the_median_asked_for_and_follows_the_signal(head, sigma):
    mask = head["mask"]
    rng = np.random.default_rng(0)
    magnitude = np.where(np.arange(SHAPE[0])[:, None, None] < 20, 1.0, 0.5) * np.ones(SHAPE)
    field = forward_field(head["chi"], VOXEL)
    noisy = add_complex_noise(field, mask, magnitude, sigma, rng)
    noise = noisy - field * mask
    assert noisy.dtype == np.float32
    assert not noisy[~mask].any()
    strong, weak = (noise[mask & (magnitude == m)].std() for m in (1.0, 0.5))
    assert weak / strong == pytest.approx(2, rel=0.05)
    median = {1.0: strong, 0.5: weak}[float(np.median(magnitude[mask]))]
    assert median == pytest.approx(sigma, rel=0.04)
    assert abs(noise[mask].mean()) < 0.1 * sigma


def test_noise_without_magnitude_is_uniform(head):
    mask = head["mask"]
    zero = np.zeros(SHAPE, np.float32)
    noise = add_complex_noise(zero, mask, None, 0.01, np.random.default_rng(1))
    assert noise[mask].std() == pytest.approx(0.01, rel=0.03)
    again = add_complex_noise(zero, mask, None, 0.01, np.random.default_rng(1))
    np.testing.assert_array_equal(noise, again)
    clean = add_complex_noise(zero + 1, mask, None, 0, np.random.default_rng(1))
    np.testing.assert_array_equal(clean, mask)


@pytest.mark.parametrize("b0_dir", DIRECTIONS)
def test_noise_is_found_again(head, b0_dir):
    mask = head["mask"]
    field = forward_field(head["chi"], VOXEL, b0_dir)
    found = {}
    for sigma in (0.001, 0.003, 0.010, 0.030):
        rng = np.random.default_rng(2)
        noisy = add_complex_noise(field, mask, head["magnitude"], sigma, rng)
        found[sigma] = estimate_noise(noisy, mask, VOXEL, b0_dir)
    assert list(found.values()) == sorted(found.values())
    for sigma in (0.003, 0.010):
        assert found[sigma] == pytest.approx(sigma, rel=0.3)


@pytest.mark.parametrize("b0_dir", DIRECTIONS)
@pytest.mark.parametrize("length", [1, 3])
def test_white_noise_is_told_from_what_leaks_and_from_slow_errors(b0_dir, length):
    voxel = (1.9, 1.7, 1.9 * length)
    made = make_head((75, 90, 81 // length), voxel, np.random.default_rng(3))
    mask = made["mask"]
    field = forward_field(made["chi"], voxel, b0_dir)
    slow = 0.02 * smooth_noise(mask.shape, np.random.default_rng(4), 3)
    for sigma in (0.002, 0.006):
        rng = np.random.default_rng(2)
        noisy = add_complex_noise(field, mask, None, sigma, rng)
        alone = white_noise(noisy, mask, voxel, b0_dir)
        assert alone == pytest.approx(sigma, rel=0.3)
        assert alone < estimate_noise(noisy, mask, voxel, b0_dir)
        both = (noisy + slow) * mask
        assert white_noise(both, mask, voxel, b0_dir) == pytest.approx(alone, rel=0.1)
        assert estimate_noise(both, mask, voxel, b0_dir) > 1.02 * alone
    assert white_noise(np.zeros(SHAPE), np.ones(SHAPE, bool), VOXEL) == 0


@pytest.mark.parametrize("b0_dir", DIRECTIONS)
@pytest.mark.parametrize(("shape", "voxel"), [((75, 90, 71), (1.9, 1.7, 2.1)), (SHAPE, VOXEL)])
def test_noise_is_found_place_by_place(shape, voxel, b0_dir):
    made = make_head(shape, voxel, np.random.default_rng(3))
    mask = made["mask"]
    field = forward_field(made["chi"], voxel, b0_dir) * mask
    # Three times the noise in the front half of the brain.
    front = (np.arange(shape[1]) > shape[1] // 2)[:, None] * np.ones(shape, bool)
    sigma = np.where(front, 0.009, 0.003)
    noisy = field + sigma * np.random.default_rng(1).standard_normal(shape) * mask
    found = local_noise(noisy, mask, voxel, b0_dir)
    assert found.dtype == np.float32
    assert not found[~mask].any()
    far = np.abs(np.arange(shape[1]) - shape[1] // 2)[:, None] > 6
    for part in (front, ~front):
        values = found[mask & part & far]
        assert np.median(values) == pytest.approx(sigma[part].max(), rel=0.25)
    np.testing.assert_allclose(local_noise(2 * noisy, mask, voxel, b0_dir), 2 * found, rtol=1e-3)


def test_dipole_fields_leave_next_to_nothing_on_the_cone(head):
    mask = head["mask"]
    field = forward_field(head["chi"], VOXEL) * mask
    assert np.median(local_noise(field, mask, VOXEL)[mask]) < 0.15 * field[mask].std()


def test_model_errors_stay_in_the_mask_and_are_reproducible(head):
    mask = head["mask"]
    field = forward_field(head["chi"], VOXEL)
    made = [
        add_model_errors(field, head["chi"], mask, VOXEL, np.random.default_rng(4), level)
        for level in (1.0, 1.0, 0.0)
    ]
    assert made[0].shape == SHAPE
    assert made[0].dtype == np.float32
    assert not made[0][~mask].any()
    np.testing.assert_array_equal(made[0], made[1])
    np.testing.assert_allclose(made[2], field * mask, atol=1e-7)
    share = (made[0] - field)[mask].std() / field[mask].std()
    assert 0.1 <= share <= 1.0


@pytest.mark.parametrize("b0_dir", DIRECTIONS)
def test_ratio_of_noise_to_signal_rises_where_the_error_is(head, b0_dir):
    """White noise shows at high |k|, a smooth error at low |k|; each is found in its place."""
    mask = head["mask"]
    rng = np.random.default_rng(6)
    field = forward_field(head["chi"], VOXEL, b0_dir) * mask
    spread = field[mask].std()
    white = add_complex_noise(field, mask, None, 0.5 * spread, rng)
    smooth = field + 0.5 * spread * smooth_noise(SHAPE, rng, 1.2) * mask

    def ratio(of):
        k, errors, signal = error_and_signal(of, mask, VOXEL, b0_dir)
        return k, errors / signal

    k, clean = ratio(field)
    high, low = k > 0.085, k < 0.06
    assert high.any()
    assert low.any()
    assert (np.diff(k) > 0).all()
    found = {name: ratio(f)[1] / clean for name, f in (("white", white), ("smooth", smooth))}
    assert np.median(found["white"][high]) > 2 * np.median(found["white"][low])
    assert np.median(found["smooth"][low]) > 2 * np.median(found["smooth"][high])
    scaled = ratio(-7 * white)[1]
    np.testing.assert_allclose(scaled, found["white"] * clean, rtol=1e-3)


def test_where_the_shells_lie_decides_nothing():
    """The lowest hold so few frequencies of the cone that chance would decide for them."""
    size = (2.0, 2.0, 2.0)
    drawn = make_head((82, 96, 76), size, np.random.default_rng(3))
    field = forward_field(drawn["chi"], size)
    field = add_model_errors(field, drawn["chi"], drawn["mask"], size, np.random.default_rng(4))
    found = []
    for scale in np.linspace(0.85, 1.15, 13):  # another length of the millimeter moves them
        k, errors, signal = error_and_signal(field, drawn["mask"], np.multiply(scale, size))
        at = np.log([0.02, 0.03, 0.045, 0.07])
        found.append(np.interp(at, np.log(k * scale), np.log(errors / signal)))
    assert np.ptp(found, axis=0).max() < 0.5  # 1.3 without regard to their number


@pytest.mark.parametrize("b0_dir", DIRECTIONS)
def test_structured_errors_are_told_from_white_noise(head, b0_dir):
    mask = head["mask"]
    field = forward_field(head["chi"], VOXEL, b0_dir) * mask
    rng = np.random.default_rng(8)
    spread = field[mask].std()
    white = add_complex_noise(field, mask, None, 0.3 * spread, rng)
    smooth = field + 0.3 * spread * smooth_noise(SHAPE, rng, 1.5) * mask
    clean, noisy, disturbed = (
        structured_noise(f, mask, VOXEL, b0_dir) for f in (field, white, smooth)
    )
    assert disturbed[0] > max(clean[0], noisy[0])
    assert disturbed[1] > max(clean[1], noisy[1])
    size, ratio = structured_noise(5 * smooth, mask, VOXEL, b0_dir)
    assert size == pytest.approx(5 * disturbed[0], rel=1e-3)
    assert ratio == pytest.approx(disturbed[1], rel=1e-3)


@pytest.mark.parametrize("b0_dir", DIRECTIONS)
def test_errors_of_fibres_are_strongest_near_the_cone(head, b0_dir):
    mask, chi, rng = head["mask"], head["chi"], np.random.default_rng(6)
    only = dict.fromkeys(noise.ERROR_SHARES, 0.0) | {"fibres": 1.0}
    field = forward_field(chi, VOXEL, b0_dir) * mask
    changed = noise.add_model_errors(field, chi, mask, VOXEL, rng, 1.0, b0_dir, only)
    power, radius, kernel = noise._power(changed - field, mask, VOXEL, b0_dir)
    middle = (radius > 0.02) & (radius < 0.1)
    near, far = (power[middle & at].mean() for at in (abs(kernel) < 0.06, kernel > 0.25))
    assert near > 2 * far


def test_errors_of_weight_zero_are_not_drawn(head):
    mask, chi = head["mask"], head["chi"]
    field = forward_field(chi, VOXEL) * mask
    rng, untouched = np.random.default_rng(6), np.random.default_rng(6)
    none = dict.fromkeys(noise.ERROR_SHARES, 0.0)
    same = noise.add_model_errors(field, chi, mask, VOXEL, rng, shares=none)
    np.testing.assert_array_equal(same, field.astype(np.float32))
    assert rng.random() == untouched.random()


def test_errors_of_a_tilted_scan_are_those_of_its_direction(head):
    """The part that is a dipole field has nothing on the cone of that direction's kernel."""
    mask, chi = head["mask"], head["chi"]
    direction = (0.5, -0.4, 0.77)
    rngs = [np.random.default_rng(9) for _ in range(2)]
    right = noise._apparent_field(chi, mask, VOXEL, direction, rngs[0])
    wrong = noise._apparent_field(chi, mask, VOXEL, (0, 0, 1), rngs[1])
    whole = np.ones(mask.shape, bool)
    found = [estimate_noise(f / f.std(), whole, VOXEL, direction) for f in (right, wrong)]
    assert found[0] < 0.5 * found[1]


def test_remnants_of_the_background_are_those_of_the_direction(head):
    mask, direction = head["mask"], (0.0, 1.0, 0.0)
    turned = noise._background_remnant(mask, VOXEL, direction, np.random.default_rng(9))
    straight = noise._background_remnant(mask, VOXEL, (0, 0, 1), np.random.default_rng(9))
    whole = np.ones(mask.shape, bool)
    found = [estimate_noise(f / f.std(), whole, VOXEL, direction) for f in (turned, straight)]
    assert found[0] < 0.5 * found[1]
    only = dict.fromkeys(noise.ERROR_SHARES, 0.0) | {"background": 1.0}
    field = np.where(mask, head["chi"], 0)
    a, b = (
        add_model_errors(field, field, mask, VOXEL, np.random.default_rng(9), 1.0, d, only)
        for d in (direction, (0.0, 0.0, 1.0))
    )
    assert np.abs(a - b).max() > 0.1 * np.abs(a - field).max()


def test_ratio_of_noise_to_signal_of_nothing_is_empty():
    mask = np.ones((12, 13, 14), bool)
    assert structured_noise(np.zeros(mask.shape), mask, VOXEL) == (0.0, 0.0)
    assert error_and_signal(np.zeros(mask.shape), mask, VOXEL).shape == (3, 0)


@pytest.mark.parametrize("shape", [(24, 17, 20), (15, 16, 33)])
def test_smooth_noise_is_smooth_and_of_unit_variance(shape):
    noise = smooth_noise(shape, np.random.default_rng(5), 2.0)
    assert noise.shape == shape
    assert noise.dtype == np.float32
    assert noise.std() == pytest.approx(1, rel=1e-4)
    # Of a Gaussian of width s, neighbours correlate by exp(−1/4s²).
    neighbours = np.mean(noise[1:] * noise[:-1]) / np.mean(noise[1:] ** 2)
    assert neighbours == pytest.approx(np.exp(-1 / 16), abs=0.04)


@pytest.mark.parametrize("b0_dir", DIRECTIONS)
def test_channels_are_zero_outside_the_mask(head, b0_dir):
    mask = head["mask"]
    field = forward_field(head["chi"], VOXEL, b0_dir)
    made = make_channels(field, mask, VOXEL, b0_dir, CHANNELS)
    assert list(made) == list(CHANNELS)
    for name, channel in made.items():
        assert channel.shape == SHAPE, name
        assert channel.dtype == np.float32, name
        assert not channel[~mask].any(), name
        assert np.isfinite(channel).all(), name
    np.testing.assert_array_equal(made["field"], field * mask)
    noise = estimate_noise(field * mask, mask, VOXEL, b0_dir)
    assert np.unique(made["noise"][mask]) == pytest.approx(noise)
    only = make_channels(field, mask, VOXEL, b0_dir, ["tikhonov"])
    np.testing.assert_array_equal(only["tikhonov"], made["tikhonov"])


def test_names_of_channels():
    assert extra_channels(["tv", "field", "mask", "noise"]) == ["tv", "noise"]
    for bad in ([], ["field", "phase"]):
        with pytest.raises(ValueError, match="expected a choice of field, mask"):
            check_inputs(bad)


def test_kept_spectra_follow_what_is_in_the_arrays(head):
    """A field is known by its bytes: changed in place it is another one, copied the same."""
    mask, rng = head["mask"].copy(), np.random.default_rng(9)
    field = add_complex_noise(forward_field(head["chi"], VOXEL), mask, None, 0.01, rng)
    noise._spectra.clear()
    first = estimate_noise(field, mask, VOXEL)
    assert estimate_noise(field.copy(), mask, VOXEL) == first
    assert error_and_signal(field, mask, VOXEL).shape[0] == 3
    assert len(noise._spectra) == 1
    assert estimate_noise(field, mask, VOXEL, DIRECTIONS[1]) != first
    assert estimate_noise(field, mask, (*VOXEL[:2], 2 * VOXEL[2])) != first
    mask[SHAPE[0] // 2 :] = False
    assert estimate_noise(field, mask, VOXEL) != first
    field *= 2
    assert estimate_noise(field, head["mask"], VOXEL) == pytest.approx(2 * first, rel=1e-5)
    error_and_signal(field, head["mask"], VOXEL)[:] = 0
    assert error_and_signal(field, head["mask"], VOXEL)[1].min() > 0
    assert len(noise._spectra) <= noise.KEPT_SPECTRA
