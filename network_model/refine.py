"""Refinement of a network's map on its scan: the map moves, not the weights; seconds on a CPU.

A scan tells whether its field's errors are white or structured (`structured_share`).

1. Where they are white, total variation twice, with the network's map as guide: once for χ, once
   for what is to be added to that map. Both may have edges at little cost where the map has them;
   the first knows nothing else of the network, the second changes it where it must. Their errors
   differ, so that a mean is closer to the truth than each. The lower the noise, the more of it
   follows the data; the flatter the map between its edges, the more of it is total variation for χ
   (`guided_mean`).
2. Where they are structured, a mean with the Wiener inverse off the cone of the dipole kernel
   (`mean_off_cone`). On it that inverse knows nothing.
3. What this mean leaves unexplained of the field is put back by a Wiener filter with the scan's own
   noise spectrum (`wiener`): much where the dipole passes the field and noise is low, nothing on
   the cone.
4. Strong sources are fitted to the field, voxel by voxel (`fit_strong`): they are few, what they
   leave of the field is far above the noise, and a prior of 0.1 ppm is none for a haemorrhage.
   In and beside them the signal is weak and its phase changes within a voxel, so that the field is
   not D∗χ: all steps take it there as far as the sources explain it (`mend_field`), and a source
   whose own field is not its own is not fitted to it.
5. On demand (`iterations`): argmin ½‖W·(D∗χ − field)‖² + α·Σ|∇χ| + ½·μ·‖χ − map‖² by ADMM on
   FFTs, linear or nonlinear, with magnitude weights and α from the noise (`tv_admm`).

The same numbers for all scans; nothing is fitted to a truth.
"""

import inspect

import numpy as np
from scipy import ndimage

from network_model.strong import STRONG, fit_strong, mend_field, strong_sources
from training_data.backend import on_fastest
from training_data.channels import make_channels
from training_data.dipole import convolve, field_inside, near_cone
from training_data.inversion import Problem, noise_weight, tv_admm, wiener
from training_data.noise import estimate_noise, gaussian, structured_noise, white_noise
from training_data.volume import resample

# Ratio of error to signal at low |k|, in what total variation leaves of the field, where the share
# of structured error begins and is complete. Simulated fields with white noise have 0.0001 to
# 0.0003 (one of twelve 0.0007); with errors of 0.15, 0.3 and 0.6 of the field's spread 0.0006,
# 0.0022 and 0.006 to 0.014; the measured one 0.021.
STRUCTURED = (0.0004, 0.012)
NEXT_TO_NOTHING = 1e-3  # prior_error or share that is not worth its seconds
# Weight of the guided total variations over that of the plain one; the guide takes back most of it
# where edges are.
GUIDED_WEIGHT = 4.0
MOST_GUIDED = 0.7
# From where to where in `flatness` a map counts as piecewise constant, and how many times the share
# of guided total variation is larger there.
FLAT, MORE_IF_FLAT = (1.47, 2.0), 9.0
# Standard deviation of the Gaussian that damps the map's finest detail before them, and the edge of
# the voxels that hold what is left of it as their guide; both over the shortest edge of a voxel. A
# network is too sure of detail that the field does not show, near the cone; elsewhere the field
# puts it back. Without both, with the guide alone, and with both: head 2001 27.42, 27.33, 27.20,
# random labels 25.49, 25.42, 25.33, head 2003 without texture 16.4, 14.9, 14.9. Edges of 1.2, 1.4
# and 1.7: head 2001 27.34, 27.31, 27.30, without texture 14.8, 15.1, 15.6; a Gaussian of 0.35
# costs. Where the map is piecewise constant the guide keeps half of its finest detail: FANSI has
# 18.1 without any, 16.9 with half and all of it (XSIM 0.876, 0.880, 0.876), head 2003 without
# texture 14.9, 15.1, 16.4.
DAMPED, GUIDE_EDGE = 0.2, 1.3
# How far in D "on the cone" reaches for the mean with the Wiener inverse. By least squares on the
# truth, at middle |k|, the best share of it is higher where |D| > 0.2 than where |D| < 0.1 on every
# scan: 0.6 for 0.3 on the measured field, 0.6 to 0.9 for at most 0.2 after V-SHARP and PDF, −0.3 to
# 0.5 for −0.6 to 0.1 on heads with structured errors.
OFF_CONE_WIDTH = 0.25
# Share of that inverse in a network's map before the next network is given it, where all errors are
# structured. The cube of `structured_share`: at a half a head after V-SHARP has 43.9, 44.0 and 44.3
# by the cube, the square and the share itself, where the measured field has 48.7 by each.
# All of its damping instead of that share, since a network is too sure of what the scan hardly
# shows. 0.7 and 1 of it, refined: measured 48.13 and 47.97, heads 2001 and 2003 with errors 56.18
# and 55.81, 54.02 and 53.89, head 2002 after PDF 55.58 and 55.32.
GIVEN_SHARE, GIVEN_POWER = 0.7, 3
# Most iterations of ADMM for guided total variations, and those at a noise of `USUAL_NOISE` [ppm].
# The more noise there is the earlier they are stopped, down to `LEAST_OF_THEM`, those of a map that
# is piecewise constant not at all. Of χ 12, 15, 20, 25 have 28.41, 28.40, 28.37, 28.34 for head
# 2001, and 49.08, 49.13, 49.19, 49.23 for COSMOS at 0.010 ppm. 25, 40 and 60 at most of both, head
# 2001 at 0.0007 ppm 19.05, 18.84, 18.84, head 2003 without texture 15.73 / 0.822, 15.14 / 0.826,
# 15.05 / 0.820. Of a correction 6, 10 and 15 as channels of the networks (8, 15, 25 here), head
# 2003 with voids 16.9, 16.4, 16.7, head 2001 at 0.010 ppm 43.22 with the first for 43.46; FANSI's
# networks had 22.24 / 0.839 for 22.06 / 0.862.
GUIDED_ITERATIONS = (40, 15)
USUAL_NOISE, LEAST_OF_THEM = 0.003, 0.6
# Of χ as a network's channel, from where the one guided by the network before ended.
GONE_ON = 6
# Total variation loses fast where errors are structured: best powers of 1 − `structured_share` on
# heads 2001 and 2003 with errors of 0.15 and 0.3 of the field's spread are 2 and 4 or more.
WHITE_POWER = 3


def refine(
    chi_network,
    field,
    mask,
    voxel_size,
    b0_dir=(0.0, 0.0, 1.0),
    *,
    magnitude=None,
    structured: float | None = None,
    guided_share: float = 0.012,
    wiener_share: float = 0.4,
    prior_error: float = 0.02,
    strong: float = STRONG,
    iterations: int = 0,
    pull: float = 0.3,
    weight_share: float = 0.6,
    nonlinear: bool = False,
) -> np.ndarray:
    """Refine a network's map.

    Args:
        chi_network: the network's map, (X, Y, Z) [ppm].
        field: local field, (X, Y, Z) [ppm]; mask: (X, Y, Z).
        voxel_size: 3 floats [mm]; b0_dir: direction of B0 in voxel axes.
        magnitude: (X, Y, Z), any scale, or None; weighs the data of total variation and of ADMM.
        structured: `structured_share` of the field where it is known already.
        guided_share: share of the guided total variation in the mean where all errors are white and
            the noise is as large as the map's standard deviation; it grows as the noise falls.
        wiener_share: share of the Wiener inverse where all errors are structured, far from the
            cone (`mean_off_cone`); none of it in strong sources, which it damps.
        prior_error: power of the mean's error over that of χ where all errors are white; the more
            they are structured, the less of what is unexplained belongs to χ. 0 leaves step 3 out.
        strong: how far off the median of χ a source is strong [ppm]; infinite leaves step 4 out,
            and takes the field as it is.
        iterations: of ADMM; 0 leaves step 5 out.
        pull: μ of step 5, dimensionless: where D² is below it, the map decides.
        weight_share: α of step 5 over the weight that total variation alone would have.
        nonlinear: compare phases instead of fields in step 5. Off: a local field is unwrapped
            already, and beside a source of 1 ppm phases beyond π lead the descent to a wrong map.

    Returns:
        χ, (X, Y, Z) float32 [ppm], zero outside the mask.

    Raises:
        ValueError: shapes that differ, or an empty mask.
    """
    shapes = [np.shape(x) for x in (chi_network, field, mask)]
    if len(set(shapes)) > 1:
        raise ValueError("map {}, field {} and mask {}: expected one shape".format(*shapes))
    mask = np.asarray(mask) > 0
    chi = np.where(mask, chi_network, 0).astype(np.float32)
    measured = (field, mask, voxel_size, b0_dir)
    if structured is None:
        structured = structured_share(*measured)
    sources = strong_sources(chi, mask, strong)
    chi, field, trust, sound = mend_field(chi, *measured, strong=strong, share=1 - structured)
    geometry = (field, *measured[1:])
    noise = estimate_noise(*geometry)
    if guided_share and (white := (1 - structured) ** WHITE_POWER) > NEXT_TO_NOTHING:
        options = {"noise": noise, "share": guided_share, "magnitude": magnitude}
        mean = guided_mean(chi, *geometry, **options)
        chi += np.float32(white) * (mean - chi)
    if wiener_share and structured > 0:
        chi = mean_off_cone(chi, *geometry, share=wiener_share * structured, sources=sources)
    chi = data_step(chi, *geometry, prior_error=prior_error, structured=structured)
    chi = fit_strong(chi, *measured, sources=sources, trust=trust, share=sound)
    if iterations:
        chi = tv_admm(
            *geometry, weight_share * noise_weight(noise), magnitude=magnitude, nonlinear=nonlinear,
            iterations=iterations, prior=chi, pull=pull,
        )  # fmt: skip
    return chi.astype(np.float32)


def default_options() -> dict:
    """Options of `refine` and their defaults: its arguments that are numbers or switches."""
    defaults = {name: p.default for name, p in inspect.signature(refine).parameters.items()}
    return {name: value for name, value in defaults.items() if isinstance(value, (int, float))}


def check_options(options: dict) -> None:
    """Raise a ValueError for a name that is no option of `refine`, or a value of another kind."""
    known = default_options()
    for name, value in options.items():
        if name not in known:
            raise ValueError(f"refine option {name!r}: expected one of {', '.join(known)}")
        is_switch = isinstance(known[name], bool)
        if isinstance(value, bool) != is_switch or not isinstance(value, (int, float)):
            raise ValueError(f"refine option {name}={value!r}: expected such as {known[name]!r}")
        if not value >= 0:
            raise ValueError(f"refine option {name}={value!r}: expected a number >= 0")


def refine_image(chi, subject, structured=None, **options) -> np.ndarray:
    """`refine` on a subject: the map moves instead of the weights.

    Args:
        chi: the network's map, (X, Y, Z) [ppm].
        subject: a `Subject`.
        structured: `structured_share` of the subject's field where it is known already.
        options: further keywords of `refine`.

    Raises:
        ValueError: an option that `refine` does not have.
    """
    check_options(options)
    geometry = (subject.mask, subject.voxel_size, subject.b0_dir)
    known = {"magnitude": subject.magnitude, "structured": structured}
    return refine(chi, subject.field, *geometry, **known, **options)


def mean_off_cone(
    chi,
    field,
    mask,
    voxel_size,
    b0_dir=(0.0, 0.0, 1.0),
    *,
    share: float,
    damping: float = 1.0,
    sources=None,
) -> np.ndarray:
    """Mean of a map and the Wiener inverse W, where the dipole kernel passes the field.

    In k-space χ + share·(1 − exp(−(D/0.25)²))·(W(field − D∗χ) + damping·(W(D∗χ) − χ)): with a
    damping of 1 share·(W(field) − χ).

    Args:
        chi: (X, Y, Z) [ppm], zero outside the mask.
        field: (X, Y, Z) [ppm]; mask: (X, Y, Z) bool.
        voxel_size: 3 floats [mm]; b0_dir: direction of B0 in voxel axes.
        share: of the Wiener inverse, far from the cone.
        damping: share of what that inverse damps of the map's own field, over `share`.
        sources: voxels to leave as they are, (X, Y, Z) bool; those of `strong_sources` by default.

    Returns:
        χ, (X, Y, Z) float32 [ppm], zero outside the mask.
    """
    geometry = (mask, voxel_size, b0_dir)
    kept = ~(strong_sources(chi, mask) if sources is None else sources)
    # W is linear, so that departing from a multiple of the map is enough.
    prior = None if damping == 1 else np.float32(1 - damping) * chi
    p = Problem(kept * (wiener(field, *geometry, prior=prior) - chi), *geometry)
    passed = 1 - near_cone(p.kernel, OFF_CONE_WIDTH)
    return chi + np.float32(share) * kept * p.paste(p.ifft(p.fft(p.field) * passed))


def guided_mean(
    chi, field, mask, voxel_size, b0_dir=(0.0, 0.0, 1.0), *, noise, share=0.012, magnitude=None
) -> np.ndarray:  # fmt: skip
    """Mean of a map and two total variations that are guided by it, by the scan's noise.

    Args:
        chi: map to start from, (X, Y, Z) [ppm], zero outside the mask.
        field: (X, Y, Z) [ppm]; mask: (X, Y, Z) bool.
        voxel_size: 3 floats [mm]; b0_dir: direction of B0 in voxel axes.
        noise: of the field [ppm].
        share: of total variation for χ in the mean, where the noise is the map's standard
            deviation and the map has texture; of the correction, twice as much is added to the map.
        magnitude: (X, Y, Z), any scale, or None; weighs the data.

    Returns:
        χ, (X, Y, Z) float32 [ppm], zero outside the mask.
    """
    share = min(share * float(chi[_tissue(chi, mask)].std()) / max(noise, 1e-9), MOST_GUIDED)
    flat = flat_share(chi, mask)
    share = min(share * (1 + (MORE_IF_FLAT - 1) * flat), 1)
    if share == 0:
        return chi
    guide, chi = _softened(chi, mask, voxel_size, flat)
    # At low |k| a field has more on the cone than its noise, since it ends at the mask: 0.0010 to
    # 0.0013 ppm in heads without any, and texture pays for it. By the white noise alone COSMOS
    # without noise is refined to 14.3 for 15.0, head 2003 at 0.0007 ppm to 17.2 for 17.4, head
    # 2002 at 1×1×2 mm to 19.0 for 19.7. A piecewise constant map has no texture to lose.
    white = white_noise(field, mask, voxel_size, b0_dir)
    noise = min(white, noise) ** (1 - flat) * noise**flat
    sparse, corrected = guided_variations(
        chi, field, mask, voxel_size, b0_dir, noise=noise, flat=flat, magnitude=magnitude,
        guide=guide,
    )  # fmt: skip
    corrected = chi + np.float32(min(2 * share, 1)) * (corrected - chi)
    return corrected + np.float32(share) * (sparse - corrected)


def _softened(chi, mask, voxel_size, flat: float) -> tuple[np.ndarray, np.ndarray]:
    """A map as guide, without its finest detail (`GUIDE_EDGE`), and the map damped (`DAMPED`).

    Strong sources stay as they are: they would spread beyond their voxels.
    """
    strong = chi * strong_sources(chi, mask)
    rest, free = chi - strong, mask & (strong == 0)
    longer = np.asarray(voxel_size) / min(voxel_size)  # a long edge has lost such detail already
    coarse = [
        n if by >= GUIDE_EDGE else max(2 * round(n * by / GUIDE_EDGE / 2), 2)
        for n, by in zip(chi.shape, longer, strict=True)
    ]
    finest = rest - resample(resample(rest, coarse), chi.shape).astype(np.float32)
    guide = strong + free * (rest - np.float32(1 - flat / 2) * finest)
    return guide, strong + free * convolve(rest, gaussian(chi.shape, DAMPED / longer))


def guided_variations(
    chi, field, mask, voxel_size, b0_dir=(0.0, 0.0, 1.0), *, noise, flat, magnitude=None,
    iterations=GUIDED_ITERATIONS, guide=None, splits=None,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Two total variations, with edges at little cost where a map has them.

    Args:
        chi, field, mask, voxel_size, b0_dir, noise, magnitude: as in `guided_mean`.
        flat: `flat_share` of χ.
        iterations: of ADMM, the most and the usual ones; see `GUIDED_ITERATIONS`.
        guide: where edges cost little, (X, Y, Z) [ppm]; None: where `chi` has them.
        splits: where the one for χ ended with another guide in the same mask, to go on from there
            with `GONE_ON` iterations, or empty: it has the most of them. Then it holds where this
            one ends. None: it has as many as the correction.

    Returns:
        the one for χ, and the map plus the one for what it leaves of the field, (X, Y, Z) float32
        [ppm], zero outside the mask.
    """
    most, usual = iterations
    number = float(np.clip(usual * USUAL_NOISE / max(noise, 1e-9), LEAST_OF_THEM * usual, most))
    number = round(number + flat * (most - number))
    of_chi = number if splits is None else GONE_ON if splits else most
    options = {"magnitude": magnitude, "guide": chi if guide is None else guide}
    geometry = (mask, voxel_size, b0_dir, GUIDED_WEIGHT * noise_weight(noise))
    left = np.where(mask, field - field_inside(chi, mask, voxel_size, b0_dir), 0).astype(np.float32)
    invert = on_fastest(tv_admm)
    sparse = invert(field, *geometry, **options, iterations=of_chi, splits=splits)
    return sparse, chi + invert(left, *geometry, **options, iterations=number)


def towards_data(chi, field, mask, voxel_size, b0_dir=(0.0, 0.0, 1.0), *, structured: float):
    """A network's map as the next network is given it: nearer to what physics knows for certain.

    Where errors are structured the mean with the Wiener inverse off the cone (`mean_off_cone`),
    where they are white what the map leaves unexplained of the field (`data_step`).

    Args:
        chi: (X, Y, Z) [ppm], zero outside the mask.
        field: (X, Y, Z) [ppm]; mask: (X, Y, Z) bool.
        voxel_size: 3 floats [mm]; b0_dir: direction of B0 in voxel axes.
        structured: `structured_share` of the field.

    Returns:
        χ, (X, Y, Z) float32 [ppm], zero outside the mask.
    """
    geometry = (field, mask, voxel_size, b0_dir)
    if (share := GIVEN_SHARE * structured**GIVEN_POWER) > NEXT_TO_NOTHING:
        chi = mean_off_cone(chi, *geometry, share=share, damping=1 / GIVEN_SHARE)
    return data_step(chi, *geometry, structured=structured)


def data_step(
    chi, field, mask, voxel_size, b0_dir=(0.0, 0.0, 1.0), *, prior_error=0.05, structured=None
) -> np.ndarray:
    """What a map leaves unexplained of the field, put back by a Wiener filter.

    Args:
        chi: map to start from, (X, Y, Z) [ppm].
        field: (X, Y, Z) [ppm]; mask: (X, Y, Z) bool.
        voxel_size: 3 floats [mm]; b0_dir: direction of B0 in voxel axes.
        prior_error: power of the map's error over that of χ where all errors are white.
        structured: `structured_share` of the field where it is known already.

    Returns:
        χ, (X, Y, Z) float32 [ppm]; the map itself where the field's errors are all structured.
    """
    geometry = (field, mask, voxel_size, b0_dir)
    if structured is None:
        structured = structured_share(*geometry)
    prior_error *= 1 - structured
    if prior_error <= NEXT_TO_NOTHING:
        return chi
    return wiener(*geometry, prior=chi, prior_error=prior_error, off_cone=1)


def structured_share(field, mask, voxel_size, b0_dir=(0.0, 0.0, 1.0), *, tv=None) -> float:
    """How far the errors of a field are structured: 0 for white noise, 1 for a measured field.

    From the errors at low |k| in what a total-variation inverse leaves of the field
    (`structured_noise`).

    Args:
        field: (X, Y, Z) [ppm]; mask: (X, Y, Z) bool.
        voxel_size: 3 floats [mm]; b0_dir: direction of B0 in voxel axes.
        tv: that inverse, (X, Y, Z) [ppm], where it is made already.
    """
    geometry = (mask, voxel_size, b0_dir)
    if tv is None:
        tv = make_channels(field, *geometry, ["tv"])["tv"]
    left = np.where(mask, field - field_inside(tv, *geometry), 0)
    _, ratio = structured_noise(field, *geometry, left=left)
    low, high = np.log(STRUCTURED)
    return float(np.clip((np.log(max(ratio, 1e-9)) - low) / (high - low), 0, 1))


def flat_share(chi, mask) -> float:
    """How far a map is piecewise constant: 0 with texture, 1 for a phantom of flat regions.

    Args:
        chi: (X, Y, Z) [ppm]; mask: (X, Y, Z) bool.
    """
    return float(np.interp(flatness(chi, _tissue(chi, mask)), FLAT, (0, 1)))


def _tissue(chi, mask) -> np.ndarray:
    """The mask without strong sources, which tell nothing of the texture, (X, Y, Z) bool."""
    tissue = mask & ~strong_sources(chi, mask)
    return tissue if 2 * tissue.sum() >= mask.sum() else mask  # a field in a mistaken unit


def flatness(chi, mask) -> float:
    """How piecewise constant a map is: mean over median of its steps from voxel to voxel.

    Args:
        chi: (X, Y, Z); mask: (X, Y, Z) bool.

    Returns:
        1.4 for a head with texture, 2 and more for a phantom of flat regions, infinite where most
        steps are zero; 1 for a map of zeros.
    """
    inner = ndimage.binary_erosion(mask, iterations=2)
    steps = sum(np.diff(chi, axis=axis, prepend=0) ** 2 for axis in range(3))[inner] ** 0.5
    if not steps.any():
        return 1.0
    middle = float(np.median(steps))
    return float(steps.mean()) / middle if middle > 0 else np.inf
