"""Warnings about a scan that can be read but looks wrong: its unit, its scale, its sign."""

import numpy as np

from training_data.inversion import tikhonov
from training_data.noise import estimate_noise

# Half the distance of the 16th and 84th percentile of a brain's local field [ppm]: 0.006 to 0.015
# in the 2016 challenge's scan, in simulations from COSMOS and in the FANSI phantom.
SPREAD_PPM = (0.0025, 0.035)
TYPICAL_PPM = 0.01
# Ratio of a map's positive tail to its negative one. Veins, iron and bleeding are paramagnetic: the
# 2016 scan gives 1.5, simulations 1.2 to 1.6; with the sign turned the inverse of that.
TAIL_RATIO = 0.88
TAILS_PERCENT = (0.5, 1.0)
SIGN_WEIGHT = 0.1  # of the quick Tikhonov inversion: strong, so that streaks do not fill the tails
MANY_VOXELS = 1000  # fewer have no tails to speak of

# Factors that a mistaken unit leaves, as (low, high, what it looks like).
_TOO_LARGE = (
    (3, 12, "a factor 2π: radians for cycles"),
    (12, 400, "Hz read as ppm, or a wrong b0"),
    (400, 1e5, "ppb read as ppm (a factor 1000)"),
    (1e5, np.inf, "a factor of a million"),
)
_TOO_SMALL = (
    (3, 12, "a factor 2π: cycles for radians"),
    (12, 400, "ppm read as Hz, or a wrong b0 or te"),
    (400, 1e5, "a factor 1000"),
    (1e5, np.inf, "a factor of a million: parts of one read as ppm"),
)


def scan_warnings(subject) -> list[str]:
    """What looks wrong about a scan, a line each.

    Args:
        subject: a `Subject`.
    """
    return [w for w in (spread_warning(subject), sign_warning(subject)) if w]


def noise_note(subject) -> tuple[float, str]:
    """Estimated noise [ppm] and a line for the log."""
    sigma = estimate_noise(subject.field, subject.mask, subject.voxel_size, subject.b0_dir)
    return sigma, f"noise and model error of the field: about {sigma:.4f} ppm"


def spread_warning(subject) -> str | None:
    """A warning where the field's spread is not that of a brain in ppm."""
    low, high = np.percentile(subject.field[subject.mask], (16, 84))
    spread = float(high - low) / 2
    if SPREAD_PPM[0] <= spread <= SPREAD_PPM[1]:
        return None
    factor = max(spread, 1e-30) / TYPICAL_PPM
    table = _TOO_LARGE if factor > 1 else _TOO_SMALL
    factor = max(factor, 1 / factor)
    guess = next((text for lo, hi, text in table if lo <= factor < hi), "")
    return (
        f"the field's spread is {spread:.3g} ppm, a brain's is {SPREAD_PPM[0]} to {SPREAD_PPM[1]}: "
        f"looks like {guess}; check unit, b0 and te"
    )


def sign_warning(subject) -> str | None:
    """A warning where a quick inversion is more plausible with the field's sign turned."""
    geometry = (subject.field, subject.mask, subject.voxel_size, subject.b0_dir)
    chi = tikhonov(*geometry, weight=SIGN_WEIGHT)[subject.mask]
    if chi.size < MANY_VOXELS:
        return None
    ratio = max(_tail_ratio(chi, percent) for percent in TAILS_PERCENT)
    if ratio > TAIL_RATIO or ratio == 0:  # of a constant field there is nothing to tell
        return None
    return (
        f"the field's sign looks turned: negative χ outweighs positive χ {1 / ratio:.2f} to 1 in a "
        "quick inversion, veins and iron make it the other way round; try sign -1"
    )


def _tail_ratio(chi, percent: float) -> float:
    low, middle, high = np.percentile(chi, (percent, 50, 100 - percent))
    return float((high - middle) / max(middle - low, 1e-12))
