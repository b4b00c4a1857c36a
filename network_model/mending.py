"""What of a measured field can be trusted, and what takes the place of the rest.

A local field is D∗χ plus noise only where there was signal and where the phase was unwrapped right.
Where that went wrong nothing need tell: the magnitude may be missing.

1. `trusted_field`, before everything else. Where the field is zero, as where a mask reaches beyond
   what was measured, there is none. On the cone of the dipole kernel a field holds errors only, so
   that its noise can be read off it place by place (`noise.local_noise`): regions of nothing but
   noise have no field either. A slow course that no source inside explains is taken off
   (`background`). Where noise stands out, patches that no source explains, such as a phase that is
   wrapped, are told from strong sources: a source shows in the field around it, and is left alone.
   Noise beyond the scan's usual one counts less.
2. `mend_field`, in and beside strong sources, where the signal decays within a voxel.
3. `fit_strong`: strong sources themselves, from the field.
"""

import dataclasses
from typing import NamedTuple

import numpy as np
from scipy import ndimage
from scipy.sparse.linalg import LinearOperator, lsqr
from scipy.stats import median_abs_deviation

from network_model.background import background
from training_data.channels import TV_ITERATIONS, make_channels
from training_data.dipole import field_inside
from training_data.inversion import noise_weight, tv_admm
from training_data.noise import estimate_noise, local_noise, local_rms
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
# From where on local noise stands out: over its median, and in ppm. The measured field of 2016 has
# 0.0037 in the middle and 0.0095 for one in a hundred; errors below 0.005 do less harm than what
# takes their place.
NOISY, LEAST_NOISY = 2.0, 0.005
# A region of noise alone: its local noise in ppm (a phase without signal has 0.05 to 0.11), over
# that of the quietest, and, since it blurs, over its own 90th percentile; and its volume, blur
# included. A source of a millilitre may hold noise, too, and be seen by nothing but that.
SILENT, SILENT_OVER, SILENT_EDGE, SILENT_ML = 0.03, 6.0, 0.7, 3.0
FEW_ZEROS = 0.01  # of the mask, here and there, in a field that is not stored in coarse steps
LEAK = 0.05  # what a strong source leaves on the cone, over its field: up to 0.035 for spheres
# A patch is unsupported where the field of all else explains less of its own than this share of its
# power, misses it by so many typical misfits, and calls for less than this share of the χ that its
# own field seems to show. Noise and wraps: at most 0.09 of the power and 0.15 of χ; lesions and
# voids at least 0.1 and 0.44.
UNSUPPORTED, MISSED, CALLED_FOR = 0.12, 10.0, 0.3
TOO_MANY = 0.2  # share of the mask in strong sources from which nothing is left to judge them by
ROUNDS = 2  # what a large patch hides shows when it is gone
PATCH_EDGE_MM = 3.0  # how far around an unsupported patch the field is in doubt


@dataclasses.dataclass(frozen=True)
class Trusted:
    """A field after `trusted_field`.

    Attributes:
        field: (X, Y, Z) float32 [ppm].
        missing: voxels without a field: zero, or noise alone, (X, Y, Z) bool.
        unsupported: voxels of patches that no source explains, (X, Y, Z) bool.
        noisy: voxels whose noise stands out, (X, Y, Z) bool.
        background: what was taken off, (X, Y, Z) float32 [ppm]; see `background.background`.
    """

    field: np.ndarray
    missing: np.ndarray
    unsupported: np.ndarray
    noisy: np.ndarray
    background: np.ndarray


def trusted_field(field, mask, voxel_size, b0_dir=(0.0, 0.0, 1.0)) -> Trusted:
    """A field without background, holes and patches that no source explains, noisy places damped.

    What total variation makes of the rest of the field takes their place, w·field + (1 − w)·D∗χ:
    w = 0 where the field is missing or not supported, Cauchy's weights of the misfit up to
    `PATCH_EDGE_MM` around, and (usual noise/local noise)² where that stands out, but not beside
    strong sources, which `mend_field` knows more of.

    Args:
        field: (X, Y, Z) [ppm]; mask: (X, Y, Z) bool.
        voxel_size: 3 floats [mm]; b0_dir: direction of B0 in voxel axes.

    Returns:
        the field, the very array that was given where nothing stands out, and where it changed.
    """
    geometry = (mask, voxel_size, b0_dir)
    missing = missing_field(field, *geometry)
    course = background(field, mask & ~missing, voxel_size, b0_dir)
    measured = (field - course * mask).astype(np.float32) if course.any() else field
    found, unsupported = measured, np.zeros(mask.shape, bool)
    if missing.any():
        noise = estimate_noise(measured, mask & ~missing, voxel_size, b0_dir)
        misfit = _misfit_of_tv(measured, (mask & ~missing).astype(np.float32), noise, *geometry)
        found = _left_out(measured, misfit, missing, mask, voxel_size)
    excess = excess_noise(found, *geometry)
    if not (excess > 1).any():
        return Trusted(found, missing, unsupported, unsupported, course)
    for _ in range(ROUNDS):
        known = missing | unsupported
        new, sources, changed = _without_unsupported(found, measured, *geometry, known)
        if not new.any():
            break
        found, unsupported = changed, unsupported | new
    if unsupported.any():
        excess = excess_noise(found, *geometry)
    excess[within(sources, BESIDE_MM, voxel_size)] = 0
    noisy = (excess > 1) & mask
    if noisy.any():
        weight = (mask / np.maximum(excess, 1)).astype(np.float32)
        misfit = _misfit_of_tv(found, weight, estimate_noise(found, *geometry), *geometry)
        found = (found - misfit * (1 - weight**2) * mask).astype(np.float32)
    return Trusted(found, missing, unsupported, noisy, course)


def trusted_subject(subject) -> tuple:
    """A `Subject` with the field that can be trusted, and what `trusted_field` found."""
    geometry = (subject.mask, subject.voxel_size, subject.b0_dir)
    found = trusted_field(subject.field, *geometry)
    return dataclasses.replace(subject, field=found.field), found


def missing_field(field, mask, voxel_size, b0_dir=(0.0, 0.0, 1.0)) -> np.ndarray:
    """Voxels of the mask that have no field, (X, Y, Z) bool.

    Where it is zero in a voxel and all around it, and in regions of nothing but noise (`SILENT`).

    Args:
        field: (X, Y, Z) [ppm]; mask: (X, Y, Z) bool.
        voxel_size: 3 floats [mm]; b0_dir: direction of B0 in voxel axes.
    """
    around, zero = np.ones((3, 3, 3)), (field == 0) & mask
    empty = ndimage.binary_opening(zero | ~mask, around) & zero
    if (zero & ~empty).sum() > FEW_ZEROS * mask.sum():  # stored in coarse steps
        empty = ndimage.binary_opening(zero, around)
    if empty[mask].all():
        return np.zeros(mask.shape, bool)
    noise = local_noise(field, mask & ~empty, voxel_size, b0_dir)
    loud = noise > max(SILENT, SILENT_OVER * float(np.percentile(noise[mask & ~empty], 5)))
    regions, _ = ndimage.label(loud, around)
    for number, box in enumerate(ndimage.find_objects(regions), 1):
        region = regions[box] == number
        edge = SILENT_EDGE * np.percentile(noise[box][region], 90)
        loud[box] &= ~region | (noise[box] > edge)
    regions, _ = ndimage.label(loud, around)
    large = np.bincount(regions.ravel()) * np.prod(voxel_size) > 1000 * SILENT_ML
    large[0] = False
    empty |= large[regions]
    return empty


def excess_noise(field, mask, voxel_size, b0_dir=(0.0, 0.0, 1.0)) -> np.ndarray:
    """Local noise over what passes for usual (`NOISY`), (X, Y, Z) float32; over 1 it stands out.

    What a strong field may leave on the cone because the brain ends somewhere is taken off.

    Args:
        field: (X, Y, Z) [ppm]; mask: (X, Y, Z) bool.
        voxel_size: 3 floats [mm]; b0_dir: direction of B0 in voxel axes.
    """
    noise = local_noise(field, mask, voxel_size, b0_dir)
    usual = max(NOISY * float(np.median(noise[mask])), LEAST_NOISY)
    around = np.where(mask, field - np.median(field[mask]), 0).astype(np.float32)
    leak = LEAK * local_rms(around, mask, voxel_size)
    return np.sqrt(np.maximum(noise**2 - leak**2, 0)) / np.float32(usual)


def _without_unsupported(found, field, mask, voxel_size, b0_dir, known):
    """One round of `trusted_field`.

    Args:
        found: the field so far, `field` as measured, `known`: unsupported voxels so far.

    Returns:
        new unsupported voxels, voxels of strong sources that are supported, and the field without
        all unsupported ones.
    """
    geometry = (mask, voxel_size, b0_dir)
    tv = make_channels(found, *geometry, ["tv"])["tv"]
    strong = strong_sources(tv, mask)
    if not 0 < strong[mask].mean() < TOO_MANY:
        return np.zeros_like(strong), strong, found
    weight = (mask & ~(strong | known)).astype(np.float32)
    without = _tv(field, weight, estimate_noise(found, *geometry), *geometry)
    misfit = _misfit(without, field, *geometry)
    typical = _typical(misfit, mask)
    seen, called_for = (
        np.where(strong_voxels(tv, mask), x - np.median(x[mask]), 0) for x in (tv, without)
    )
    patches, count = ndimage.label(strong, np.ones((3, 3, 3)))
    numbers = np.arange(1, count + 1)
    size, power, missed, own, common = (
        ndimage.sum_labels(x, patches, numbers)
        for x in (
            strong, (field - np.median(field[mask])) ** 2, misfit**2, seen**2, seen * called_for,
        )
    )  # fmt: skip
    bad = (missed > (1 - UNSUPPORTED) * power) & (missed > size * (MISSED * typical) ** 2)
    bad &= common < CALLED_FOR * own
    new = np.isin(patches, numbers[bad])
    new |= within(new, PATCH_EDGE_MM, voxel_size) & (np.abs(misfit) > MISSED * typical) & ~strong
    return new & ~known, strong & ~new, _left_out(field, misfit, new | known, mask, voxel_size)


def _left_out(field, misfit, gone, mask, voxel_size):
    """A field with what explains the rest of it in place of the voxels `gone`, (X, Y, Z) float32.

    Up to `PATCH_EDGE_MM` from them it counts the less the less it is explained.
    """
    doubtful = within(gone, PATCH_EDGE_MM, voxel_size) & mask
    weight = np.ones(mask.shape, np.float32)
    weight[doubtful] = _cauchy(misfit[doubtful], _typical(misfit, mask & ~gone))
    weight[gone] = 0
    return (field - misfit * (1 - weight) * mask).astype(np.float32)


def _tv(field, weight, noise, mask, voxel_size, b0_dir) -> np.ndarray:
    """Total variation with data weights, (X, Y, Z) [ppm]."""
    weight_of_tv = noise_weight(noise)
    return tv_admm(
        field, mask, voxel_size, b0_dir, weight_of_tv, magnitude=weight, iterations=TV_ITERATIONS
    )  # fmt: skip


def _misfit_of_tv(field, weight, noise, mask, voxel_size, b0_dir) -> np.ndarray:
    """What total variation with data weights leaves of a field, without its median, (X, Y, Z)."""
    geometry = (mask, voxel_size, b0_dir)
    return _misfit(_tv(field, weight, noise, *geometry), field, *geometry)


def _misfit(chi, field, mask, voxel_size, b0_dir) -> np.ndarray:
    """What a map leaves of a field, without its median since D passes no constant, (X, Y, Z)."""
    left = field - field_inside(chi, mask, voxel_size, b0_dir)
    return np.where(mask, left - np.median(left[mask]), 0)


def _typical(misfit, mask) -> float:
    """Standard deviation of a misfit in the mask, by its median absolute deviation."""
    return max(float(median_abs_deviation(misfit[mask], scale="normal")), TINY_FIELD)


def _cauchy(misfit, typical: float) -> np.ndarray:
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
    misfit = _misfit(fitted, field, *geometry)
    typical = _typical(misfit, mask)
    beside = within(sources, BESIDE_MM, voxel_size) & mask
    trust[beside] -= share * (1 - _cauchy(misfit[beside], typical))
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
    left = weights * _misfit(chi, field, *geometry)[mask].astype(float)
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
