"""What of a measured field can be trusted, and what takes the place of the rest.

A local field is D∗χ plus noise only where there was signal and where the phase was unwrapped right.
Where that went wrong nothing need tell: the magnitude may be missing.

Where the field is zero, as where a mask reaches beyond what was measured, there is none. On the
cone of the dipole kernel a field holds errors only, so that its noise can be read off it place by
place (`noise.local_noise`): regions of nothing but noise have no field either. A slow course that
no source inside explains is taken off (`background`). Where noise stands out, patches that no
source explains, such as a phase that is wrapped, are told from strong sources: a source shows in
the field around it, and is left alone (`strong` knows more of it). Noise beyond the scan's usual
one counts less.
"""

import dataclasses

import numpy as np
from scipy import ndimage

from network_model.strong import (
    BESIDE_MM,
    cauchy_weight,
    misfit_of,
    strong_sources,
    strong_voxels,
    typical_misfit,
    within,
)
from training_data.backend import on_fastest
from training_data.background import background
from training_data.channels import TV_ITERATIONS
from training_data.inversion import noise_weight, tv_admm
from training_data.noise import estimate_noise, local_noise, local_rms

# From where on local noise stands out: over its median, and in ppm. The measured field of 2016 has
# 0.0037 in the middle and 0.0095 for one in a hundred; errors below 0.005 do less harm than what
# takes their place.
NOISY, LEAST_NOISY = 2.0, 0.005
# A region of noise alone: its local noise in ppm (a phase without signal has 0.05 to 0.11), over
# that of the quietest, and, since it blurs, over its own 90th percentile; and its volume, blur
# included. A source of a millilitre may hold noise, too, and be seen by nothing but that.
SILENT, SILENT_OVER, SILENT_EDGE, SILENT_ML = 0.03, 6.0, 0.7, 3.0
WORTH_A_WARNING = 0.05  # background that was taken off, over the field's standard deviation
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
    strong sources, which `strong.mend_field` knows more of.

    Args:
        field: (X, Y, Z) [ppm]; mask: (X, Y, Z) bool.
        voxel_size: 3 floats [mm]; b0_dir: direction of B0 in voxel axes.

    Returns:
        the field, the very array that was given where nothing stands out, and where it changed.

    Raises:
        ValueError: a mask of which more than half has no field.
    """
    geometry = (mask, voxel_size, b0_dir)
    missing = missing_field(field, *geometry)
    if 2 * missing.sum() > mask.sum():
        raise ValueError(
            f"the field is zero or mere noise in {missing.sum() / mask.sum():.0%} of the mask: "
            "expected a mask of where it is known; cut it back, or take the right field"
        )
    course = background(field, mask & ~missing, voxel_size, b0_dir)
    measured = (field - course * mask).astype(np.float32) if course.any() else field
    found, unsupported = measured, np.zeros(mask.shape, bool)
    if missing.any():
        seen = mask & ~missing
        noise = estimate_noise(measured, seen, voxel_size, b0_dir)
        misfit = _misfit_of_tv(measured, seen.astype(np.float32), noise, *geometry)
        found = _left_out(measured, misfit, missing, mask, voxel_size)
    noise = local_noise(found, *geometry)
    excess = excess_noise(found, *geometry, noise=noise)
    if not (excess > 1).any():
        return Trusted(found, missing, unsupported, unsupported, course)
    for _ in range(ROUNDS):
        known, usual = missing | unsupported, float(np.median(noise[mask]))
        new, sources, changed = _without_unsupported(found, measured, *geometry, known, usual)
        if not new.any():
            break
        found, unsupported = changed, unsupported | new
        noise = local_noise(found, *geometry)
    if unsupported.any():
        excess = excess_noise(found, *geometry, noise=noise)
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


def look_through(subject) -> tuple:
    """`trusted_subject` for a user: what was found in numbers and in words.

    Args:
        subject: a `Subject`.

    Returns:
        the `Subject` with the field that can be trusted; what was taken off as background inside
        the mask, (X, Y, Z) float32 [ppm]; numbers by name, for the sidecar; warnings.
    """
    trusted, found = trusted_subject(subject)
    course = found.background * subject.mask
    numbers = {
        "BackgroundRemoved_ppm": float(
            np.sqrt(np.mean(np.square(course[subject.mask], dtype=float)))
        ),
        "MissingVoxels": int(found.missing.sum()),
        "UnsupportedVoxels": int(found.unsupported.sum()),
        "NoisyVoxels": int(found.noisy.sum()),
    }
    warnings = []
    if numbers["BackgroundRemoved_ppm"] > WORTH_A_WARNING * subject.field[subject.mask].std():
        warnings.append(
            f"an offset or slow course of {numbers['BackgroundRemoved_ppm']:.2g} ppm, which no "
            "source inside the mask explains, was taken off the field: see background removal"
        )
    if found.missing.any():
        warnings.append(
            f"no field in {_places(found.missing, subject)} of the mask: it is zero there, or noise"
            " alone; χ there is a guess from the field around it: see the mask"
        )
    if found.unsupported.any():
        warnings.append(
            f"no source explains the field in {_places(found.unsupported, subject)}, as where the "
            "phase is wrapped or signal is lost; it was left out: see the residual field, and "
            "unwrapping and mask"
        )
    return trusted, course, numbers, warnings


def _places(where, subject) -> str:
    """How many patches, how much in all, and the middle of the largest in voxels of the file."""
    patches, count = ndimage.label(subject.to_file_axes(where), np.ones((3, 3, 3)))
    largest = np.argmax(np.bincount(patches.ravel())[1:]) + 1
    middle = np.rint(np.argwhere(patches == largest).mean(0)).astype(int).tolist()
    millilitres = where.sum() * np.prod(subject.voxel_size) / 1000
    return f"{count} patch(es) ({millilitres:.3g} ml, the largest around voxel {tuple(middle)})"


def missing_field(field, mask, voxel_size, b0_dir=(0.0, 0.0, 1.0)) -> np.ndarray:
    """Voxels of the mask that have no field, (X, Y, Z) bool.

    Where it is zero in a voxel and all around it, in patches of 27 voxels or more, and in regions
    of nothing but noise (`SILENT`).

    Args:
        field: (X, Y, Z) [ppm]; mask: (X, Y, Z) bool.
        voxel_size: 3 floats [mm]; b0_dir: direction of B0 in voxel axes.
    """
    around, zero = np.ones((3, 3, 3)), (field == 0) & mask
    empty = ndimage.binary_opening(zero | ~mask, around) & zero
    if (zero & ~empty).sum() > FEW_ZEROS * mask.sum():  # stored in coarse steps
        empty = ndimage.binary_opening(zero, around)
    # A voxel at the rim that rounds to zero is none: outside, all around it is zero as well.
    patches, _ = ndimage.label(empty, around)
    empty &= np.bincount(patches.ravel())[patches] >= around.size
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


def excess_noise(field, mask, voxel_size, b0_dir=(0.0, 0.0, 1.0), *, noise=None) -> np.ndarray:
    """Local noise over what passes for usual (`NOISY`), (X, Y, Z) float32; over 1 it stands out.

    What a strong field may leave on the cone because the brain ends somewhere is taken off.

    Args:
        field: (X, Y, Z) [ppm]; mask: (X, Y, Z) bool.
        voxel_size: 3 floats [mm]; b0_dir: direction of B0 in voxel axes.
        noise: `local_noise` of that field, (X, Y, Z) [ppm], where it is made already.
    """
    if noise is None:
        noise = local_noise(field, mask, voxel_size, b0_dir)
    usual = max(NOISY * float(np.median(noise[mask])), LEAST_NOISY)
    around = np.where(mask, field - np.median(field[mask]), 0).astype(np.float32)
    leak = LEAK * local_rms(around, mask, voxel_size)
    return np.sqrt(np.maximum(noise**2 - leak**2, 0)) / np.float32(usual)


def _without_unsupported(found, field, mask, voxel_size, b0_dir, known, usual: float):
    """One round of `trusted_field`.

    Args:
        found: the field so far; field: as measured; known: voxels left out so far; usual: median of
            the local noise of the field so far [ppm].

    Returns:
        new unsupported voxels, voxels of strong sources that are supported, and the field without
        all unsupported ones.
    """
    geometry = (mask, voxel_size, b0_dir)
    # Garbage raises the noise of the whole, and total variation would no longer show it.
    noise = min(estimate_noise(found, *geometry), NOISY * usual)
    tv = _tv(found, mask.astype(np.float32), noise, *geometry)
    strong = strong_sources(tv, mask)
    if not 0 < strong[mask].mean() < TOO_MANY:
        return np.zeros_like(strong), strong, found
    weight = (mask & ~(strong | known)).astype(np.float32)
    without = _tv(field, weight, noise, *geometry)
    misfit = misfit_of(without, field, *geometry)
    typical = typical_misfit(misfit, mask)
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
    weight[doubtful] = cauchy_weight(misfit[doubtful], typical_misfit(misfit, mask & ~gone))
    weight[gone] = 0
    return (field - misfit * (1 - weight) * mask).astype(np.float32)


def _tv(field, weight, noise, mask, voxel_size, b0_dir) -> np.ndarray:
    """Total variation with data weights, (X, Y, Z) [ppm]."""
    weight_of_tv = noise_weight(noise)
    return on_fastest(tv_admm)(
        field, mask, voxel_size, b0_dir, weight_of_tv, magnitude=weight, iterations=TV_ITERATIONS
    )


def _misfit_of_tv(field, weight, noise, mask, voxel_size, b0_dir) -> np.ndarray:
    """What total variation with data weights leaves of a field, without its median, (X, Y, Z)."""
    geometry = (mask, voxel_size, b0_dir)
    return misfit_of(_tv(field, weight, noise, *geometry), field, *geometry)
