"""Background removal: what is outside goes, what is inside stays, and what a random one errs by."""

import numpy as np
import pytest
from scipy import ndimage

from training_data.dipole import convolve, dipole_kernel
from training_data.removal import (
    LARGEST_ERROR,
    METHODS,
    draw_surroundings,
    pdf,
    removal_error,
    vsharp,
)
from training_data.smv import SMV, erode

SHAPE, VOXEL, OBLIQUE = (50, 61, 54), (1.0, 1.2, 1.4), (0.2, -0.3, 0.93)
REMOVALS = {
    "vsharp": lambda field, mask: vsharp(field, mask, VOXEL, [9.0, 7.0, 5.0, 3.0], 0.03),
    "resharp": lambda field, mask: vsharp(field, mask, VOXEL, [5.0], tikhonov=1e-4),
    "pdf": lambda field, mask: (pdf(field, mask, VOXEL, OBLIQUE, 60), mask),
}


def egg(radius_mm):
    axes = [(np.arange(n) - n // 2) * d for n, d in zip(SHAPE, VOXEL, strict=True)]
    x, y, z = np.meshgrid(*axes, indexing="ij", sparse=True)
    return x**2 + (y / 1.1) ** 2 + z**2 < radius_mm**2


def field_of(chi):
    return convolve(chi.astype(np.float32), dipole_kernel(SHAPE, VOXEL, OBLIQUE))


@pytest.mark.parametrize("name", REMOVALS)
def test_field_of_sources_outside_goes_and_that_of_sources_inside_stays(name):
    mask = egg(17)
    outside = np.where(egg(24) & ~egg(22), np.random.default_rng(0).standard_normal(SHAPE), 0)
    background = field_of(ndimage.gaussian_filter(outside, 1.2))
    inside = field_of(ndimage.gaussian_filter(np.where(egg(4), 1.0, 0), 1.2))
    left, where = REMOVALS[name](background, mask)
    deep = erode(where, VOXEL, 3.0)[0]
    assert where.sum() > 0.3 * mask.sum()
    assert not left[~where].any()
    assert left[deep].std() < 0.1 * background[deep].std()
    local, _ = REMOVALS[name](inside, mask)
    assert np.abs(local - inside)[deep].std() < 0.2 * inside[deep].std()
    both, _ = REMOVALS[name](background + inside, mask)
    np.testing.assert_allclose(both, left + local, atol=0.02 * np.abs(inside).max())


def head(seed=0):
    mask = egg(18)
    rng = np.random.default_rng(seed)
    chi = ndimage.gaussian_filter(rng.standard_normal(SHAPE), 0.8).astype(np.float32)
    return chi * mask, mask


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("seed", [0, 1])
def test_errors_of_a_random_removal(method, seed):
    chi, mask = head(seed)
    local = field_of(chi)
    error, again = (
        removal_error(chi, mask, VOXEL, OBLIQUE, rng=np.random.default_rng(seed), method=method)
        for _ in range(2)
    )
    np.testing.assert_array_equal(error, again)
    assert error.shape == SHAPE
    assert error.dtype == np.float32
    assert not error[~mask].any()
    assert abs(error[mask].mean()) < 1e-3 * error[mask].std()
    spread = error[mask].std() / local[mask].std()
    assert 0.02 < spread < 1.05 * LARGEST_ERROR
    inner = erode(mask, VOXEL, 3.0)[0]
    if method != "pdf":  # nearer to harmonic than a local field
        smv = SMV(SHAPE, VOXEL, 3.0, harmonic=True)
        rough, usual = ((x - smv(x))[inner].std() / x[inner].std() for x in (error, local))
        assert rough < 0.9 * usual
    assert error[mask & ~inner].std() > error[erode(mask, VOXEL, 7.0)[0]].std()


def test_every_method_is_drawn():
    chi, mask = head()
    errors = [
        removal_error(chi, mask, VOXEL, rng=np.random.default_rng(seed))[mask].std()
        for seed in range(6)
    ]
    assert len(set(errors)) == 6
    assert sum(METHODS.values()) == pytest.approx(1)


def test_surroundings_hold_tissue_sinuses_and_air_but_no_brain():
    mask = np.pad(egg(18), 24)
    distance = ndimage.distance_transform_edt(~mask, sampling=VOXEL)
    chi = draw_surroundings(distance, VOXEL, np.random.default_rng(3))
    assert not chi[mask].any()
    assert (chi[distance > 16] == np.float32(9.4)).all()
    near = chi[(distance > 0) & (distance < 2)]
    assert 0.03 < near.std() < 0.6
    sinuses = (chi == np.float32(9.4)) & (distance < 9)
    assert sinuses.any()
    upper = np.argwhere(mask)[:, 2].mean() + 9 / VOXEL[2]
    assert not sinuses[:, :, int(np.ceil(upper)) :].any()
