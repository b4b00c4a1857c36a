"""What is left of the background field: harmonics of low order that no source inside explains.

Sources outside the brain make a field inside it that is harmonic. Removing it leaves a constant or
a slow course now and then, a shim or an offset of the phase as well. D passes no constant, and a
network or total variation turns 0.006 ppm of it into streaks as large as χ itself; a linear course
of 0.0025 ppm costs half of that.

Sources inside can make such fields, too, those near the brain's edge above all. Hence generalised
least squares, whose covariance is that of noise and of sources inside (as PDF takes the sources
outside for it, Liu 2011, doi:10.1002/nbm.1670; jointly: Liu 2017, doi:10.1002/mrm.26331), on a
coarse grid, which is all that such slow fields need; and nothing is taken off but what stands out.
"""

import numpy as np
import scipy.fft

from training_data.backend import cores
from training_data.dipole import dipole_kernel
from training_data.volume import bounding_box

STEP_MM = 5.0  # edge of a coarse voxel
# Standard deviations in a coarse voxel [ppm]: χ, and the field's noise and model error. Only their
# ratio counts.
CHI, NOISE = 0.05, 0.003
ITERATIONS = 20  # of conjugate gradients; any number gives an unbiased estimate
LENGTH_MM = 50.0  # unit of length of the harmonics
# From where on a harmonic stands out, by order: its root mean square over the field's standard
# deviation. Heads without any background have up to 0.02, 0.06 and 0.18, COSMOS and the measured
# field of 2016 0.03, 0.03 and 0.04; slabs of 40 mm 0.02, 0.14 and 0.02, half a head 0.21.
STANDS_OUT = (0.05, 0.15, 0.25)
BESIDE = 0.5  # where one stands out, others of its order need so much of that
# Largest condition number of the fit. Heads have 17, slabs of 8 mm 20 to 50, a rod of 40 × 40 mm
# 900; of one coarse layer, or of three along two axes, 4e5 at least: nothing is taken off there.
ILL = 1e4


def background(field, mask, voxel_size, b0_dir=(0.0, 0.0, 1.0)) -> np.ndarray:
    """Constant, linear and second-order harmonic field that stands out of a local field.

    c = (Hᵀ R H)⁻¹ Hᵀ R f with the harmonics H inside the mask and R the inverse of 1 + (χ/noise)²
    M D M D M: the covariance of white noise and of white χ inside the mask, whose fields are not
    taken for background.

    Args:
        field: (X, Y, Z) [ppm]; mask: (X, Y, Z) bool, where there is a field.
        voxel_size: 3 floats [mm]; b0_dir: direction of B0 in voxel axes.

    Returns:
        (X, Y, Z) float32 [ppm], defined everywhere; zero where nothing stands out, and for a mask
        so thin (under 8 mm, a rod 15 mm) that the harmonics in it cannot be told apart.
    """
    box = bounding_box(mask)
    cut, inside = field[box], mask[box]
    blocks = [max(1, round(STEP_MM / v)) for v in voxel_size]
    coarse, covered = _block_means(cut, inside, blocks)
    covered = covered > 0.5
    nothing = np.zeros(field.shape, np.float32)
    spread = float(cut[inside].std())
    if covered.sum() <= 9 or spread == 0:
        return nothing
    edges = [n * v for n, v in zip(blocks, voxel_size, strict=True)]
    # Middles of voxels from the middle of the box, on the coarse and on the fine grid.
    starts = [-(n - 1) * v / 2 for n, v in zip(cut.shape, voxel_size, strict=True)]
    firsts = [s + (n - 1) / 2 * v for s, n, v in zip(starts, blocks, voxel_size, strict=True)]
    shapes = np.stack(harmonics(covered.shape, edges, firsts)) * covered
    filtered = _whitened(shapes, covered, edges, b0_dir)
    normal = np.tensordot(filtered, shapes, ([1, 2, 3], [1, 2, 3]))
    scale = np.sqrt(np.maximum(normal.diagonal(), 1e-30))
    if np.linalg.cond(normal / np.outer(scale, scale)) > ILL:
        return nothing
    seen = np.tensordot(filtered, coarse * covered, 3)
    chosen = _standing_out(normal, seen, np.sqrt((shapes[:, covered] ** 2).mean(1)) / spread)
    if not chosen:
        return nothing
    factors = np.linalg.solve(normal[np.ix_(chosen, chosen)], seen[chosen])
    fine = harmonics(field.shape, voxel_size, [
        s - b.start * v for s, b, v in zip(starts, box, voxel_size, strict=True)
    ])  # fmt: skip
    return sum(np.float32(c) * fine[i] for c, i in zip(factors, chosen, strict=True)) + nothing


def _standing_out(normal, seen, size) -> list[int]:
    """Numbers of the harmonics to take off: by order, from what the fit up to that order finds.

    Args:
        normal, seen: both sides of the normal equations, (9, 9) and (9,).
        size: root mean square of the harmonics over the field's standard deviation, (9,).
    """
    chosen, before = [], 0
    for upto, least in zip((1, 4, 9), STANDS_OUT, strict=True):
        found = np.linalg.solve(normal[:upto, :upto], seen[:upto])
        share = np.abs(found * size[:upto])
        if share[before:].max() > least:
            chosen += [i for i in range(before, upto) if share[i] > BESIDE * least]
        before = upto
    return sorted({0, *chosen}) if chosen else []


def harmonics(shape, voxel_size, start) -> list[np.ndarray]:
    """The nine harmonic polynomials up to the second order on a grid, broadcast, float32.

    1; x, y, z; xy, yz, xz, x² − y², 2z² − x² − y², in units of `LENGTH_MM`.

    Args:
        shape: (X, Y, Z); voxel_size: 3 floats [mm]; start: place of voxel (0, 0, 0) [mm].
    """
    x, y, z = (
        ((s + np.arange(n) * v) / LENGTH_MM).reshape([-1 if i == axis else 1 for i in range(3)])
        for axis, (n, v, s) in enumerate(zip(shape, voxel_size, start, strict=True))
    )
    found = [x**0, x, y, z, x * y, y * z, x * z, x**2 - y**2, 2 * z**2 - x**2 - y**2]
    return [np.broadcast_to(h, shape).astype(np.float32) for h in found]


def _block_means(x, mask, blocks):
    """Means of x over the voxels of the mask block by block, and the share of them in the mask."""
    weight = _block_sums(mask, blocks)
    means = _block_sums(np.where(mask, x, 0), blocks) / np.maximum(weight, 1)
    return means, weight / np.prod(blocks)


def _block_sums(x, blocks):
    """Sums over blocks of voxels, float64; the last ones are filled up with zeros."""
    x = np.pad(x, [(0, -n % b) for n, b in zip(x.shape, blocks, strict=True)])
    split = [n for s, b in zip(x.shape, blocks, strict=True) for n in (s // b, b)]
    return x.reshape(split).sum((1, 3, 5), dtype=np.float64)


def _whitened(shapes, mask, voxel_size, b0_dir):
    """R H: conjugate gradients for every harmonic (9, X, Y, Z) at once, float64."""
    padded = [scipy.fft.next_fast_len(2 * n, real=True) for n in mask.shape]
    kernel = dipole_kernel(padded, voxel_size, b0_dir)
    inner = tuple(slice(n) for n in mask.shape)
    axes = (1, 2, 3)

    def fields(x):
        spectrum = scipy.fft.rfftn(x.astype(np.float32), padded, axes, workers=cores())
        return scipy.fft.irfftn(spectrum * kernel, padded, axes, workers=cores())[:, *inner] * mask

    def applied(x):
        return x + (CHI / NOISE) ** 2 * fields(fields(x))

    x, left = np.zeros(shapes.shape), shapes.astype(float)
    step, power = left, (left**2).sum(axes, keepdims=True)
    for _ in range(ITERATIONS):
        moved = applied(step)
        length = power / np.maximum((step * moved).sum(axes, keepdims=True), 1e-30)
        x, left = x + length * step, left - length * moved
        new = (left**2).sum(axes, keepdims=True)
        step, power = left + new / np.maximum(power, 1e-30) * step, new
    return x
