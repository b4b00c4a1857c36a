"""Scores of a χ map against a reference, by the definitions of the field's public scorer.

They equal those of the PyPI package `qsm-ci` (its `score_arrays` for χ) to 1e-6, which
`tests/test_metrics.py` checks. Maps are (X, Y, Z) [ppm]; both are set to zero outside the mask, and
a voxel that is not finite counts as zero. A score that is not defined (a constant reference, a
label that is absent) is NaN.
"""

import csv
import io
import math

import numpy as np
from scipy.ndimage import binary_dilation, gaussian_laplace, uniform_filter

from training_data.volume import bounding_box

# Label numbers of the 2019 challenge's head, as the scorer uses them.
DEEP_GRAY = (1, 2, 3, 4, 5, 6)
TISSUE = (7, 8, 9)
BLOOD = 11
CALCIFICATION = 16
LABEL_NAMES = {
    1: "caudate", 2: "globus pallidus", 3: "putamen", 4: "red nucleus", 5: "dentate",
    6: "substantia nigra", 7: "thalamus", 8: "white matter", 9: "gray matter", 10: "CSF",
    11: "blood", 16: "calcification",
}  # fmt: skip
# Reach of the widest filter (Laplacian of Gaussian: 5 × 1.5 voxels), so that a cut changes nothing.
_MARGIN = 9
_TINY = 1e-30


def score(recon, truth, mask, labels=None) -> dict[str, float]:
    """All scores of one map.

    Args:
        recon: map to score, (X, Y, Z) [ppm].
        truth: reference, same shape [ppm].
        mask: where to score, same shape, non-zero inside.
        labels: integer label map of the same shape, or None; adds the region scores.

    Returns:
        nrmse, nrmse_detrend [%], xsim, hfen [%], correlation; with labels also nrmse_tissue,
        nrmse_blood, nrmse_dgm [%, detrended], dgm_linearity, calc_moment_dev [ppm · voxels],
        calc_streak; and coverage, the share of the mask with a finite value other than zero.

    Raises:
        ValueError: shapes that differ, or an empty mask.
    """
    shapes = [np.shape(x) for x in (recon, truth, mask, labels) if x is not None]
    if len(set(shapes)) != 1:
        raise ValueError(f"map, reference, mask and labels differ in shape: {shapes}")
    mask = np.asarray(mask) > 0
    box = tuple(slice(max(s.start - _MARGIN, 0), s.stop + _MARGIN) for s in bounding_box(mask))
    mask = mask[box]
    recon, truth = (np.asarray(x)[box].astype(np.float64) for x in (recon, truth))
    recon = np.where(mask & np.isfinite(recon), recon, 0.0)
    truth = np.where(mask, truth, 0.0)
    scores = {
        "nrmse": nrmse(recon, truth, mask),
        "nrmse_detrend": nrmse_detrend(recon, truth, mask),
        "xsim": xsim(recon, truth, mask),
        "hfen": hfen(recon, truth, mask),
        "correlation": correlation(recon, truth, mask),
    }
    if labels is not None:
        scores |= region_scores(recon, truth, mask, np.rint(np.asarray(labels)[box]).astype(int))
    scores["coverage"] = np.count_nonzero(recon[mask]) / np.count_nonzero(mask)
    return {name: float(value) for name, value in scores.items()}


def nrmse(recon, truth, mask) -> float:
    """100·‖x − t‖/‖t‖, both demeaned in the mask [%]."""
    x, t, norm = _demeaned(recon, truth, mask)
    return 100 * np.linalg.norm(x - t) / norm if norm >= _TINY else math.nan


def nrmse_detrend(recon, truth, mask) -> float:
    """NRMSE after x = slope·t + offset was fitted in the mask and undone [%]."""
    x, t, norm = _demeaned(recon, truth, mask)
    if not norm >= _TINY:
        return math.nan
    slope, _ = line_fit(t, x)
    x = x / slope if abs(slope) >= _TINY else x
    return 100 * np.linalg.norm(x - t) / norm


def _demeaned(recon, truth, mask):
    if not mask.any():
        return np.zeros(1), np.zeros(1), math.nan
    x, t = recon[mask], truth[mask]
    x, t = x - x.mean(), t - t.mean()
    return x, t, np.linalg.norm(t)


def line_fit(x, y) -> tuple[float, float]:
    """Slope and offset of the least-squares line y = slope·x + offset; (0, 0) for constant x."""
    dx = x - x.mean()
    spread = (dx * dx).sum()
    # The scorer's n·Σx² − (Σx)² is n times this sum; its threshold is kept.
    if spread * x.size < _TINY:
        return 0.0, 0.0
    slope = (dx * (y - y.mean())).sum() / spread
    return float(slope), float(y.mean() - slope * x.mean())


def correlation(recon, truth, mask) -> float:
    """Pearson correlation in the mask; zero where one of the two is constant."""
    x, t, norm = _demeaned(recon, truth, mask)
    norm *= np.linalg.norm(x)
    return (x * t).sum() / norm if norm > 0 else 0.0


def xsim(recon, truth, mask) -> float:
    """Structural similarity with constants made for QSM, mean over the mask.

    Windows of 5×5×5 voxels, cut at the volume's edge; L = 1 ppm, K1 = 0.01, K2 = 0.001.
    Milovic et al. 2025, doi:10.1002/mrm.30271.
    """
    c1, c2 = 0.01**2, 0.001**2

    def window(x):
        return uniform_filter(x, size=5, mode="constant")

    share = window(np.ones(recon.shape))
    mean_x, mean_t = window(recon) / share, window(truth) / share
    var_x = window(recon * recon) / share - mean_x**2
    var_t = window(truth * truth) / share - mean_t**2
    cov = window(recon * truth) / share - mean_x * mean_t
    top = (2 * mean_x * mean_t + c1) * (2 * cov + c2)
    bottom = (mean_x**2 + mean_t**2 + c1) * (var_x + var_t + c2)
    valid = mask & (bottom > 0)
    return (top[valid] / bottom[valid]).mean() if valid.any() else 0.0


def hfen(recon, truth, mask) -> float:
    """Error of the Laplacian of Gaussian (1.5 voxels) over its norm in the reference [%].

    Ravishankar & Bresler 2011, doi:10.1109/TMI.2010.2090538; the 2016 challenge's settings.
    """
    fine_x, fine_t = (gaussian_laplace(v, 1.5, truncate=5.0)[mask] for v in (recon, truth))
    norm = np.linalg.norm(fine_t)
    return 100 * np.linalg.norm(fine_x - fine_t) / norm if norm >= _TINY else math.nan


def region_scores(recon, truth, mask, labels) -> dict[str, float]:
    """The 2019 challenge's region scores; see `score` for names and units.

    Marques et al. 2021, doi:10.1002/mrm.28754.
    """
    blood = binary_dilation(mask & (labels == BLOOD), structure=np.ones((3, 3, 3)))
    moment, streak = calcification_scores(recon, truth, labels)
    return {
        "nrmse_tissue": nrmse_detrend(recon, truth, mask & np.isin(labels, TISSUE)),
        "nrmse_blood": nrmse_detrend(recon, truth, blood),
        "nrmse_dgm": nrmse_detrend(recon, truth, mask & np.isin(labels, DEEP_GRAY)),
        "dgm_linearity": dgm_linearity(recon, truth, labels),
        "calc_moment_dev": moment,
        "calc_streak": streak,
    }


def dgm_linearity(recon, truth, labels) -> float:
    """|1 − slope| of the mean χ of the deep gray nuclei, recon against truth."""
    nuclei = [labels == n for n in DEEP_GRAY if (labels == n).any()]
    if len(nuclei) < 2:
        return math.nan
    means = np.array([(truth[n].mean(), recon[n].mean()) for n in nuclei])
    return abs(1 - line_fit(means[:, 0], means[:, 1])[0])


def calcification_scores(recon, truth, labels) -> tuple[float, float]:
    """Error of the calcification's moment [ppm · voxels], and level of its streaks.

    The calcification of a map is what lies, within 3 voxels of the label's box, below every value
    in the 8 voxels around that; its streaks are the residual's spread in the next 4 voxels, the
    reference regressed out, over the calcification's mean.
    """
    inside = labels == CALCIFICATION
    if not inside.any():
        return math.nan, math.nan
    near, rim, far = (_around(inside, reach) for reach in (3, 7, 11))
    moment = truth[inside].sum()
    levels = -np.arange(351) * 0.01
    below_all = levels <= recon[far & ~near].min(initial=0)
    level = levels[below_all.argmax()] if below_all.any() else levels[-1]
    found = recon[near & (recon < level)]
    if found.size == 0:
        return abs(moment), math.nan
    deviation = abs(moment - found.sum())
    rim &= ~near
    if np.count_nonzero(rim) < 2 or abs(found.mean()) <= _TINY:
        return deviation, math.nan
    slope, offset = line_fit(truth[rim], recon[rim])
    residual = recon[rim] - (slope * truth[rim] + offset)
    return deviation, residual.std() / abs(found.mean())


def _around(region, reach: int):
    box = np.zeros_like(region)
    box[tuple(slice(max(s.start - reach, 0), s.stop + reach) for s in bounding_box(region))] = True
    return box


def table(rows: list[dict]) -> list[str]:
    """Lines of text for scores: a row per method (a dict, its name first), a column per score."""
    body = [[f"{v:.4g}" if k else str(v) for k, v in enumerate(row.values())] for row in rows]
    cells = [list(rows[0]), *body]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return ["  ".join(c.rjust(w) for c, w in zip(row, widths, strict=True)) for row in cells]


def csv_text(rows: list[dict]) -> str:
    """The same rows as the text of a CSV file, numbers in full."""
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
