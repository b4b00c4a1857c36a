"""Strong sources, whose own field cannot be trusted: bleeding, calcification, large veins.

In and beside them the signal decays within a voxel, and what is measured is not the field of any χ.

1. `mend_field`: a field that is taken there as far as the sources explain it.
2. `fit_strong`: the sources themselves, from the field.
"""

from typing import NamedTuple

import numpy as np
from scipy import ndimage
from scipy.sparse.linalg import LinearOperator, lsqr
from scipy.stats import median_abs_deviation

from training_data.dipole import field_inside
from training_data.volume import bounding_box

# |χ| of a strong source [ppm]: iron in deep nuclei has 0.2, veins 0.3 to 0.4.
STRONG = 0.4
STRONG_ITERATIONS = 4
BESIDE_MM = 6.0  # how far from a strong source its field may be in doubt
# Misfit that halves a voxel's weight there, over the scan's typical one.
DOUBTFUL_MISFIT = 5.0
# Share of the power of a source's own field, noise apart, that a fit may leave unexplained: up to
# the first it is made, from the second on not. Clean lesions have 0.001 to 0.006, those whose
# signal has decayed 0.014 to 0.05.
UNSOUND = (0.006, 0.012)
TINY_FIELD = 1e-9  # [ppm]


def strong_voxels(chi, mask, least: float = STRONG) -> np.ndarray:
    """Voxels where χ is over `least` [ppm] from its median in the mask.

    Args:
        chi: (X, Y, Z) [ppm]; mask: (X, Y, Z) bool.

    Returns:
        (X, Y, Z) bool, inside the mask.
    """
    return (np.abs(chi - np.median(chi[mask])) > least) & mask


def strong_sources(chi, mask, least: float = STRONG) -> np.ndarray:
    """The `strong_voxels` and their neighbours inside the mask, (X, Y, Z) bool."""
    return ndimage.binary_dilation(strong_voxels(chi, mask, least)) & mask


def misfit_of(chi, field, mask, voxel_size, b0_dir) -> np.ndarray:
    """What a map leaves of a field, without its median since D passes no constant, (X, Y, Z)."""
    left = field - field_inside(chi, mask, voxel_size, b0_dir)
    return np.where(mask, left - np.median(left[mask]), 0)


def typical_misfit(misfit, mask) -> float:
    """Standard deviation of a misfit in the mask, by its median absolute deviation."""
    return max(float(median_abs_deviation(misfit[mask], scale="normal")), TINY_FIELD)


def cauchy_weight(misfit, typical: float) -> np.ndarray:
    """Weights of Cauchy's robust regression, a half at `DOUBTFUL_MISFIT` typical misfits."""
    return 1 / (1 + (misfit / (DOUBTFUL_MISFIT * typical)) ** 2)


def within(places, distance: float, voxel_size) -> np.ndarray:
    """Voxels at most `distance` [mm] from any of `places` (X, Y, Z) bool; none where none is."""
    near = np.zeros(places.shape, bool)
    if places.any():
        margin = [int(distance / v) + 1 for v in voxel_size]
        box = tuple(
            slice(max(s.start - m, 0), s.stop + m)
            for s, m in zip(bounding_box(places), margin, strict=True)
        )
        far = ndimage.distance_transform_edt(~places[box], sampling=voxel_size)
        near[box] = far <= distance
    return near


class Mended(NamedTuple):
    """A map and a field after `mend_field`; volumes (X, Y, Z) float32.

    Attributes:
        chi: the map with the sources fitted that are sound [ppm].
        field: mended field [ppm].
        trust: weights of the field, 0 to 1 in the mask.
        sound: share of the fit that is made, 0 to 1, the larger the more the field in a strong
            source is its own; zero elsewhere.
    """

    chi: np.ndarray
    field: np.ndarray
    trust: np.ndarray
    sound: np.ndarray


def mend_field(
    chi, field, mask, voxel_size, b0_dir=(0.0, 0.0, 1.0), *, strong: float = STRONG, share=1.0
) -> Mended:
    """A field that is taken in and beside strong sources as far as they explain it.

    The sources are fitted to the field around them first (`fit_strong`): what is measured inside
    of them, where the signal has decayed, counts only if it agrees. Then the weights of Cauchy's
    robust regression, w = 1/(1 + (misfit/(5·sd))²), with the sd of the misfit in the whole mask
    from its median absolute deviation; D∗χ + w·misfit takes the field's place. MEDI weighs data
    down by their misfit for the same reason (Liu 2013, doi:10.1002/mrm.24272), but everywhere:
    veins and edges lose by that.

    Args:
        chi: map, (X, Y, Z) [ppm], zero outside the mask.
        field: (X, Y, Z) [ppm]; mask: (X, Y, Z) bool.
        voxel_size: 3 floats [mm]; b0_dir: direction of B0 in voxel axes.
        strong: see `strong_voxels`; the field is changed up to `BESIDE_MM` from such sources.
        share: of all changes that is made, 0 to 1: the white share of the errors, since structured
            ones put every misfit in doubt.

    Returns:
        all as given, and trusted, where there is no strong source.
    """
    trust = mask.astype(np.float32)
    inside = strong_voxels(chi, mask, strong)
    if share <= 0 or not inside.any():
        return Mended(chi, field, trust, np.zeros_like(trust))
    geometry = (mask, voxel_size, b0_dir)
    sources = ndimage.binary_dilation(inside) & mask
    fitted = fit_strong(chi, field, *geometry, sources=sources, trust=trust * ~inside)
    misfit = misfit_of(fitted, field, *geometry)
    typical = typical_misfit(misfit, mask)
    beside = within(sources, BESIDE_MM, voxel_size) & mask
    trust[beside] -= share * (1 - cauchy_weight(misfit[beside], typical))
    sound = share * _soundness(misfit, field - np.median(field[mask]), sources, typical)
    mended = (field - misfit * (1 - trust) * mask).astype(np.float32)
    return Mended(chi + sound * (fitted - chi), mended, trust, sound)


def _soundness(misfit, field, sources, typical: float) -> np.ndarray:
    """How far the field in strong sources is theirs, 0 to 1, patch by patch (`UNSOUND`).

    Args:
        misfit, field: (X, Y, Z) [ppm]; sources: (X, Y, Z) bool; typical: misfit elsewhere [ppm].
    """
    patches, count = ndimage.label(sources, np.ones((3, 3, 3)))
    numbers = np.arange(1, count + 1)
    left, power = (ndimage.sum_labels(x, patches, numbers) for x in (misfit**2, field**2))
    left -= ndimage.sum_labels(sources, patches, numbers) * typical**2
    share = np.r_[0, np.maximum(left, 0) / np.maximum(power, TINY_FIELD**2)]
    return (np.interp(share, UNSOUND, (1, 0))[patches] * sources).astype(np.float32)


def fit_strong(
    chi, field, mask, voxel_size, b0_dir=(0.0, 0.0, 1.0), *, sources, trust=None, share=1.0
) -> np.ndarray:
    """Least squares of the whole field over the voxels of strong sources alone.

    Few iterations of LSQR (Paige & Saunders 1982, doi:10.1145/355984.355989) from the map on:
    stopping early is the regularisation, and keeps what a larger source has on the cone.

    Args:
        chi: map to start from, (X, Y, Z) [ppm].
        field: (X, Y, Z) [ppm]; mask: (X, Y, Z) bool.
        voxel_size: 3 floats [mm]; b0_dir: direction of B0 in voxel axes.
        sources: (X, Y, Z) bool, inside the mask; nothing else moves.
        trust: weights of the squared misfits, (X, Y, Z), or None: one.
        share: of the fitted change that is made, 0 to 1, for all or by voxel (X, Y, Z).

    Returns:
        χ, (X, Y, Z) float32 [ppm]; the map itself where there are no sources.
    """
    share = np.broadcast_to(np.float32(share), mask.shape)
    if not (sources & (share > 0)).any():
        return chi
    geometry = (mask, voxel_size, b0_dir)

    def field_of(values, where, seen):
        """Field in the voxels `seen` of values in the voxels `where`."""
        volume = np.zeros(mask.shape, np.float32)
        volume[where] = values.ravel()
        return field_inside(volume, *geometry)[seen].astype(float)

    weights = 1.0 if trust is None else np.sqrt(trust[mask])
    left = weights * misfit_of(chi, field, *geometry)[mask].astype(float)
    dipole = LinearOperator(
        (left.size, int(sources.sum())),
        matvec=lambda x: weights * field_of(x, sources, mask),
        rmatvec=lambda x: field_of(weights * x, mask, sources),  # the kernel is symmetric
        dtype=float,
    )
    found = lsqr(dipole, left, iter_lim=STRONG_ITERATIONS)[0]
    fitted = chi.copy()
    fitted[sources] += share[sources] * found.astype(np.float32)
    return fitted
