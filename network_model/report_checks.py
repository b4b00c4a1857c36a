"""Can this map be trusted? What a report says in words about its misfit, noise and values."""

import dataclasses
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

RIM_MM = 3.0  # outer shell of the brain mask, where background field and masking errors show
# Misfit over the noise estimate. The estimate is of noise and model error together, from the
# field alone; it is good to some tens of percent, so the limits are wide.
OVERFIT, AT_NOISE, ABOVE_NOISE = 0.6, 1.6, 3.0
RIM_RATIO = 1.8  # rms of the residual in the rim over that inside
NEIGHBOR_CORRELATION = 0.5  # of the residual; white noise has 0, leftover anatomy close to 1
EXTREME_PPM = 1.0  # only bleeding, calcification and large veins go beyond
EXTREME_SHARE = 0.001


@dataclass(frozen=True)
class Finding:
    """One sentence of the report.

    Attributes:
        level: "good", "note" or "bad".
        title: what was looked at, in a few words.
        text: what was found, and what it means.
    """

    level: str
    title: str
    text: str


def rms(x) -> float:
    """Root mean square of an array; 0 for an empty one."""
    return float(np.sqrt(np.mean(np.square(x, dtype=float)))) if np.size(x) else 0.0


def residual_numbers(subject, residual) -> dict[str, float]:
    """How a residual field is spread over the brain.

    Args:
        subject: a `Subject`, without background that was taken off its field.
        residual: field − D ∗ χ, (X, Y, Z) [ppm].

    Returns:
        field_rms and residual_rms [ppm]; explained, the share of the field's energy that the map
        explains; rim_ratio, residual near the mask's edge over that inside; neighbor_correlation,
        of adjacent voxels of the residual.
    """
    mask = subject.mask
    depth = ndimage.distance_transform_edt(np.pad(mask, 1), subject.voxel_size)[1:-1, 1:-1, 1:-1]
    reach = max(RIM_MM, *subject.voxel_size)  # a voxel at least
    inside, rim = depth > reach, mask & (depth <= reach)
    field = subject.field[mask] - subject.field[mask].mean()
    inner_rms = rms(residual[inside])
    return {
        "field_rms": rms(field),
        "residual_rms": rms(residual[mask]),
        "explained": 1 - rms(residual[mask]) ** 2 / max(rms(field) ** 2, 1e-30),
        "rim_ratio": rms(residual[rim]) / inner_rms if inner_rms > 0 and rim.any() else 1.0,
        "neighbor_correlation": _neighbor_correlation(residual, inside if inside.any() else mask),
    }


def _neighbor_correlation(x, mask) -> float:
    """Mean correlation of voxels with their next neighbors along the three axes."""
    found = []
    for axis in range(3):
        size = mask.shape[axis]
        here, there = (np.arange(size - 1) + shift for shift in (0, 1))
        both = mask.take(here, axis) & mask.take(there, axis)
        a, b = x.take(here, axis)[both], x.take(there, axis)[both]
        if a.size > 2 and a.std() > 0 and b.std() > 0:
            found.append(np.corrcoef(a, b)[0, 1])
    return float(np.mean(found)) if found else 0.0


def findings(result) -> list[Finding]:
    """Everything that the report says about whether the map can be trusted.

    Args:
        result: a `reconstruction.Result`.
    """
    local = dataclasses.replace(result.subject, field=result.subject.field - result.course)
    numbers = residual_numbers(local, result.residual)
    p = result.parameters
    sigma = p.get("NoiseEstimate_ppm")
    found = [_warnings_finding(result.warnings)]
    found += [_misfit_finding(numbers, sigma)] if sigma else []
    found.append(_explained_finding(numbers, p.get("MisfitNetwork_ppm")))
    found.append(_structure_finding(numbers))
    found.append(_rim_finding(numbers))
    found.append(_range_finding(result.chi[result.subject.mask]))
    found.append(_reference_finding(p))
    return found


def _warnings_finding(warnings) -> Finding:
    if not warnings:
        return Finding("good", "Input", "No warning: unit, sign and mask look plausible.")
    count = "One warning was" if len(warnings) == 1 else f"{len(warnings)} warnings were"
    return Finding("bad", "Input", f"{count} raised about the input; settle it first (see above).")


def _misfit_finding(numbers, sigma: float) -> Finding:
    ratio = numbers["residual_rms"] / sigma
    start = (
        f"What the map leaves unexplained is {numbers['residual_rms']:.4f} ppm (rms), "
        f"{ratio:.2f} times the estimated noise of the field ({sigma:.4f} ppm). "
    )
    if ratio < OVERFIT:
        text = "The map follows the field more closely than its noise allows, so some noise is in χ"
        return Finding("note", "Misfit against noise", start + text + "; refine less.")
    if ratio <= AT_NOISE:
        return Finding(
            "good", "Misfit against noise", start + "It fits as well as the data allow, no better."
        )
    if ratio <= ABOVE_NOISE:
        text = "More than noise is left: typically background field, the mask's edge or motion."
        return Finding("note", "Misfit against noise", start + text)
    text = "The map does not explain the field: check unit, sign, B0 direction and the mask."
    return Finding("bad", "Misfit against noise", start + text)


def _explained_finding(numbers, before: float | None) -> Finding:
    share = 100 * numbers["explained"]
    text = f"The map explains {share:.1f} % of the local field's energy."
    if before is not None:
        text += f" Misfit {before:.4f} ppm for the network's map, {numbers['residual_rms']:.4f} "
        text += "ppm for the final one."
    return Finding("good" if share > 70 else "note" if share > 40 else "bad", "Data fit", text)


def _structure_finding(numbers) -> Finding:
    r = numbers["neighbor_correlation"]
    text = f"Neighboring voxels of the residual correlate at {r:.2f} (white noise: 0). "
    if r <= NEIGHBOR_CORRELATION:
        return Finding("good", "Residual structure", text + "What is left looks like noise.")
    text += "What is left is smooth; look in its picture for anatomy that is missing in χ."
    return Finding("note", "Residual structure", text)


def _rim_finding(numbers) -> Finding:
    ratio = numbers["rim_ratio"]
    text = f"The residual in the outer {RIM_MM:g} mm of the mask is {ratio:.2f} times that inside. "
    if ratio <= RIM_RATIO:
        return Finding("good", "Edge of the mask", text + "No sign of leftover background field.")
    text += "Background field or unreliable phase is left there: distrust χ near the surface, or "
    return Finding("note", "Edge of the mask", text + "erode the mask.")


def _range_finding(chi) -> Finding:
    low, high = np.percentile(chi, (1, 99))
    share = float(np.mean(np.abs(chi) > EXTREME_PPM))
    text = f"98 % of the brain lies between {low:.3f} and {high:.3f} ppm. "
    if share <= EXTREME_SHARE:
        return Finding("good", "Values", text + "That is a brain's range.")
    text += (
        f"{100 * share:.2f} % of the voxels exceed ±{EXTREME_PPM:g} ppm: bleeding, calcification"
    )
    return Finding("note", "Values", text + ", or streaks from unreliable phase.")


def _reference_finding(parameters: dict) -> Finding:
    region = parameters.get("ReferenceRegion", "none")
    if region == "none":
        text = "No region's mean was subtracted: compare differences between regions, not values."
    else:
        value = parameters.get("ReferenceValue_ppm", 0.0)
        text = f"Values are relative to the mean of “{region}” ({value:.4f} ppm was subtracted)."
    return Finding("note" if region == "none" else "good", "Reference", text)
