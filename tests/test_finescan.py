"""A scan made of finer voxels: right where there is no structure, wrong where the signal decays."""

import numpy as np
import pytest
from scipy import ndimage

from training_data.dipole import forward_field
from training_data.finescan import (
    SAMPLINGS,
    block_mean,
    fine_scan,
    fit_field,
    half_grid,
    sampled,
    sampled_field,
)

SHAPE = (44, 52, 40)


def test_blocks_are_averaged():
    x = np.arange(4 * 6 * 2, dtype=np.float32).reshape(4, 6, 2)
    assert block_mean(x).shape == (2, 3, 1)
    assert block_mean(x)[1, 2, 0] == pytest.approx(x[2:4, 4:6, :2].mean())


def test_half_grid_lies_on_the_middle_of_the_blocks():
    x, y, z = np.meshgrid(*(np.arange(n) for n in (24, 20, 16)), indexing="ij", sparse=True)

    def wave(x, y, z):
        return np.exp(2j * np.pi * (2 * x / 24 - 3 * y / 20 + z / 16)).astype(np.complex64)

    coarse = half_grid(wave(x, y, z))
    middle = wave(*(2 * np.arange(n).reshape(axis.shape) + 0.5
                    for n, axis in ((12, x[:12]), (10, y[:, :10]), (8, z[:, :, :8]))))  # fmt: skip
    np.testing.assert_allclose(coarse, middle, atol=1e-5)


@pytest.mark.parametrize("n", range(8, 14))
def test_half_grid_keeps_a_constant(n):
    ones = np.ones((n, 8, n + 1), np.complex64)
    np.testing.assert_allclose(half_grid(ones), 1, atol=1e-5)


@pytest.mark.parametrize("half", [4, 5, 6, 7])
def test_half_grid_of_odd_halves_is_a_wave_on_the_middle_of_the_blocks(half):
    x = np.arange(2 * half).reshape(-1, 1, 1) + np.zeros((1, 2 * half, 2 * half))
    wave = np.exp(2j * np.pi * x / (2 * half)).astype(np.complex64)
    middle = np.exp(2j * np.pi * (2 * x[:half, :half, :half] + 0.5) / (2 * half))
    np.testing.assert_allclose(half_grid(wave), middle, atol=1e-5)


def test_field_of_clean_echoes_is_exact_beyond_a_turn_of_phase():
    rng = np.random.default_rng(0)
    mask = np.ones((6, 5, 4), bool)
    field = rng.uniform(-1, 1, mask.shape).astype(np.float32)
    echoes = (0.005, 0.02)
    signals = [np.exp(2j * np.pi * 128 * te * field) for te in echoes]
    near = field + rng.uniform(-0.05, 0.05, mask.shape).astype(np.float32)
    found = fit_field(signals, echoes, near, mask, 128.0, 0.0, rng)
    np.testing.assert_allclose(found, field, atol=1e-5)


def test_noise_is_as_asked():
    rng = np.random.default_rng(0)
    mask = np.ones((20, 20, 20), bool)
    signals = [np.full(mask.shape, 3.0 + 0j)] * 3
    zero = np.zeros(mask.shape, np.float32)
    found = fit_field(signals, (0.005, 0.01, 0.02), zero, mask, 128.0, 0.004, rng)
    assert found.std() == pytest.approx(0.004, rel=0.05)


def test_field_is_that_of_the_dipole_but_in_and_beside_lesions():
    scan = fine_scan(3, SHAPE, 0.0)
    mask, lesions = scan["mask"], np.isin(scan["labels"], (16, 17))
    assert lesions.any()
    errors = np.abs(scan["field"] - forward_field(scan["chi"], (1.0, 1.0, 1.0)))
    beside = ndimage.binary_dilation(lesions) & mask
    assert errors[beside].mean() > 10 * np.median(errors[mask])
    assert not scan["field"][~mask].any()
    again = fine_scan(3, SHAPE, 0.0)
    np.testing.assert_array_equal(again["field"], scan["field"])


def smooth_map(shape=(36, 40, 44)):
    """χ [ppm] whose detail both grids hold, different from zero in all of an egg."""
    places = np.stack(np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij"), -1)
    egg = np.linalg.norm(places / (0.8, 0.7, 0.6), axis=-1) < 1
    blob = np.exp(-np.sum((places / 0.25) ** 2, -1))
    return (0.02 * blob * egg + 1e-6 * egg).astype(np.float32), egg


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_voxels_without_structure_show_their_field(sampling):
    chi, egg = smooth_map()
    size, b0_dir = (0.4, 0.5, 0.6), (0.2, -0.1, 0.97)
    found = sampled_field(chi, size, b0_dir, sampling, np.random.default_rng(0), "cpu")
    expected = forward_field(sampled(chi, sampling).real, [2 * n for n in size], b0_dir)
    inside = block_mean(ndimage.binary_erosion(egg, iterations=8).astype(np.float32)) == 1
    assert found.shape == (18, 20, 22)
    assert np.abs(found - expected)[inside].max() < 0.03 * np.abs(expected[inside]).max()


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_voxels_with_structure_show_the_field_where_there_is_signal(sampling):
    chi, egg = smooth_map()
    rng = np.random.default_rng(1)
    chi += np.float32(0.5) * egg * (rng.random(chi.shape) < 0.1)  # dark grains with a field
    found = sampled_field(chi, (0.5,) * 3, (0, 0, 1), sampling, np.random.default_rng(0), "cpu")
    inside = block_mean(ndimage.binary_erosion(egg, iterations=4).astype(np.float32)) == 1
    mean = block_mean(forward_field(chi, (0.5,) * 3))
    assert (found - mean)[inside].std() > 0.1 * mean[inside].std()


@pytest.mark.gpu
@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_gpu_gives_the_same_field_of_voxels(sampling):
    pytest.importorskip("cupy")
    chi, egg = smooth_map()
    places = {
        device: sampled_field(
            chi, (0.4, 0.5, 0.6), (0, 0, 1), sampling, np.random.default_rng(2), device
        )
        for device in ("cpu", "gpu")
    }
    signal = block_mean(egg.astype(np.float32)) > 0  # the phase of none is anything
    np.testing.assert_allclose(places["gpu"][signal], places["cpu"][signal], atol=1e-5)


@pytest.mark.parametrize("n", [36, 38, 35])
def test_half_grid_of_real_values_is_real(n):
    x = np.random.default_rng(3).standard_normal((n, n, n), np.float32)
    assert np.abs(half_grid(x).imag).max() < 1e-5
