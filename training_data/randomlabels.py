"""Random-label volumes: χ of nobody's anatomy, for networks that must not learn one head by heart.

After SynthSeg (Billot 2023, doi:10.1016/j.media.2023.102789): random label maps of several scales
in a brain-like mask, a random χ per label, then nuclei, veins, blurred edges and texture. The
histogram resembles that of a measured map: standard deviation about 0.03 ppm, heavy positive tail.
"""

import numpy as np
from scipy import ndimage

from training_data import shapes
from training_data.augment import add_veins, largest_component, random_voxel
from training_data.volume import bounding_box

# spacing of the random fields [mm], number of labels, standard deviation of a label's χ [ppm]
SCALES = ((28.0, 5, 0.010), (13.0, 7, 0.013), (6.0, 6, 0.012))


def lattice_noise(shape, spacing, rng) -> np.ndarray:
    """Smooth random field: white noise on a coarse lattice, spread by cubic B-splines.

    Args:
        shape: grid (X, Y, Z).
        spacing: distance of the lattice's nodes, one or three numbers [voxels].
        rng: numpy Generator.

    Returns:
        (X, Y, Z) float32, mean about 0, standard deviation about 1.
    """
    bases = []
    for n, step in zip(shape, np.broadcast_to(spacing, 3), strict=True):
        nodes = np.arange(-1, (n - 1) / step + 2)
        u = np.abs(np.arange(n)[:, None] / step - nodes - rng.random())
        spline = np.where(u < 1, 2 / 3 - u**2 + u**3 / 2, np.clip(2 - u, 0, None) ** 3 / 6)
        bases.append((spline / np.linalg.norm(spline, axis=1, keepdims=True)).astype(np.float32))
    field = rng.standard_normal([b.shape[1] for b in bases], np.float32)
    for basis in bases:
        # Each product takes the first axis away and puts it last; after three all are in place.
        field = np.tensordot(field, basis, axes=(0, 1))
    return field


def brain_mask(shape, rng) -> np.ndarray:
    """Ellipsoid with a smooth random surface that fills most of the grid, (X, Y, Z) bool."""
    half = np.array(shape) / 2
    radii = half * rng.uniform(0.7, 0.95, 3)
    centre = half - 0.5 + (half - radii) * rng.uniform(-0.8, 0.8, 3)
    axes = [(np.arange(n) - c) / r for n, c, r in zip(shape, centre, radii, strict=True)]
    x, y, z = np.meshgrid(*axes, indexing="ij", sparse=True)
    bumps = rng.uniform(0.02, 0.08) * lattice_noise(shape, half / 3, rng)
    return largest_component(x * x + y * y + z * z < (1 + bumps) ** 2)


def random_label_map(shape, spacing, labels: int, rng) -> np.ndarray:
    """Label of the largest of `labels` smooth random fields at each voxel, (X, Y, Z) int8."""
    best = lattice_noise(shape, spacing, rng)
    winner = np.zeros(shape, np.int8)
    for label in range(1, labels):
        field = lattice_noise(shape, spacing, rng)
        winner[field > best] = label
        np.maximum(best, field, out=best)
    return winner


def label_values(labels: int, sd: float, rng) -> np.ndarray:
    """χ of each label [ppm]: normal, now and then shifted up as iron shifts it."""
    values = rng.normal(0, sd, labels)
    values += rng.exponential(2 * sd, labels) * (rng.random(labels) < 0.2)
    return values.astype(np.float32)


def add_sheets(chi, voxel_size, rng) -> None:
    """Add folded sheets, as cortex and sulci are, to χ (X, Y, Z) [ppm], in place.

    A sheet is where a smooth random field is near zero: thin, curved, and closed upon itself.
    """
    for _ in range(rng.integers(1, 4)):
        field = lattice_noise(chi.shape, np.maximum(rng.uniform(4, 14) / voxel_size, 2), rng)
        chi[np.abs(field) < rng.uniform(0.1, 0.5)] += np.float32(rng.normal(0, 0.02))


def add_nuclei(chi, mask, voxel_size, rng) -> None:
    """Put 4 to 16 ellipsoids of 2 to 12 mm into χ (X, Y, Z) [ppm], in place; most are positive."""
    for _ in range(rng.integers(4, 17)):
        semi_axes = rng.uniform(2, 12) * rng.uniform(0.5, 1, 3)
        value = rng.gamma(2.0, 0.04) if rng.random() < 0.8 else -rng.gamma(2.0, 0.02)
        angles = rng.uniform(0, 360, 3)
        solid = shapes.ellipsoid(chi.shape, random_voxel(mask, rng), semi_axes, angles, voxel_size)
        chi[solid] = np.float32(value)


def add_large_regions(chi, mask, voxel_size, rng) -> None:
    """Put 0 to 3 regions of 8 to 36 mm and 0.08 to 0.45 ppm, either sign, into χ [ppm], in place.

    Anatomy holds none, so a network that never saw one takes it for an artifact: a thalamus at
    −0.4 ppm, as the FANSI phantom has it, was drawn to zero.
    """
    for _ in range(rng.integers(0, 4)):
        semi_axes = rng.uniform(4, 18) * rng.uniform(0.4, 1, 3)
        angles, centre = rng.uniform(0, 360, 3), random_voxel(mask, rng)
        solid = shapes.ellipsoid(chi.shape, centre, semi_axes, angles, voxel_size)
        value = rng.choice((-1, 1)) * rng.uniform(0.08, 0.45)
        ramp = lattice_noise(chi.shape, np.maximum(20 / voxel_size, 2), rng)
        chi[solid] += np.float32(value) * (1 + np.float32(0.3) * ramp[solid])


def make_random_labels(shape, voxel_size, rng) -> tuple[np.ndarray, np.ndarray]:
    """A random-label volume.

    Args:
        shape: grid (X, Y, Z).
        voxel_size: 3 floats [mm]; the scales of the structures are in mm.
        rng: numpy Generator.

    Returns:
        chi (X, Y, Z) float32 [ppm], mean 0 in the mask and 0 outside, and mask (X, Y, Z) bool.
    """
    voxel_size = np.asarray(voxel_size, float)
    whole = brain_mask(shape, rng)
    box = bounding_box(whole)
    mask = whole[box]
    chi = np.zeros(mask.shape, np.float32)
    for spacing, labels, sd in SCALES:
        scale = spacing * rng.uniform(0.7, 1.4) / voxel_size
        values = label_values(labels, sd * rng.uniform(0.4, 1.6), rng)
        chi += values[random_label_map(mask.shape, np.maximum(scale, 2), labels, rng)]
    add_sheets(chi, voxel_size, rng)
    add_nuclei(chi, mask, voxel_size, rng)
    chi = ndimage.gaussian_filter(chi, rng.uniform(0.1, 0.8), truncate=3)
    chi *= np.float32(rng.lognormal(np.log(0.023), 0.3)) / max(chi[mask].std(), 1e-3)
    add_large_regions(chi, mask, voxel_size, rng)
    add_veins(chi, mask, voxel_size, rng, int(rng.integers(10, 41)))
    # Some volumes are as piecewise constant as an analytic phantom, some as rich as tissue.
    strength = rng.uniform(0, 0.008) * (rng.random() < 0.7)
    for spacing in (1.5, 4.0):  # voxels
        texture = lattice_noise(mask.shape, spacing, rng)
        chi += np.float32(strength * rng.uniform(0.3, 1)) * texture
    chi -= chi[mask].mean()
    out = np.zeros(shape, np.float32)
    out[box] = chi * mask
    return out, whole
