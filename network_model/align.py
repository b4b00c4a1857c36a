"""Bring a scan to the grid that a plain network was trained on, and its map back.

A network of field and mask alone has learned one voxel size and B0 along z. Its input is resampled
to that size with B0 turned along z, and its output back, by one spline interpolation each way
(Dixon et al. 2023, PMC10953050: aligning the local field is the most accurate way for direct
inversions of tilted slabs). One that knows the grid from direct inversions sees a scan of elongated
voxels on its own grid and on isotropic voxels, and the mean of both maps is taken.
"""

import dataclasses
import itertools
from collections.abc import Callable

import numpy as np
from scipy import ndimage

from training_data.nifti import degrees_between
from training_data.noise import white_noise
from training_data.volume import bounding_box

CHOICES = ("auto", "on", "off", "both")
MAX_TILT_DEG = 2.0  # tilt that training data of a straight head tolerate
MAX_SIZE_CHANGE = 0.1  # relative difference of a voxel's edge
# Longest over shortest edge from which a network that takes any grid sees isotropic voxels too.
ELONGATED = 1.5
# Share of the cubes there: a half, less the longer the voxels, more the lower the noise is. Best of
# 0, 0.33, 0.5, 0.67, 0.83, 1 on heads 2003 and 2007 at 0.0008, 0.0015 and 0.003 ppm: 0.83, 0.83,
# 0.67 to 0.83 on 1×1×2 mm, 0.67, 0.5, 0 to 0.33 on 1×1×3 mm.
MOST_OF_CUBES = (0.5, 0.85)  # whatever the voxels, and whatever the noise
LOW_NOISE, CUBES_BY_NOISE = 0.003, 0.2  # where it begins to count [ppm], and for each halving of it
FINER = 0.85  # edge of the cubes over that of a scan whose voxels are nearly cubes already
# Edge and share of the cubes for a scan of longer voxels than any that were trained: of those it
# knows nothing but what the inversions show. Refined by its own voxels, with 0.3, 0.5, 0.7 and all
# of cubes of 1.3 mm: head 2001 at 2 mm 41.66 / 0.735, 41.10, 40.94, 40.95, 41.27 / 0.770, measured
# field at 2 mm 47.51 / 0.665, 46.53, 46.03, 45.68, 45.40 / 0.690, head 2003 with errors at 1.6 mm
# 58.08, 57.46, 57.17, 56.99, 56.92. With 0.7 of cubes of 1.5, 1.3, 1.15, 1.0 mm: 41.18, 40.95,
# 40.59, 40.47; 46.35, 45.68, 45.63, 45.66; 57.53, 56.99, 56.28, 55.70, in 22, 26, 45, 63 s.
COARSE_MM, COARSE_SHARE = 1.15, 0.7
TRAINED_MM = (0.7, 1.3)  # edges of the isotropic voxels that such networks were trained on
MARGIN = 2  # voxels around the turned box, for the spline's support
SPLINE_ORDER = 3


@dataclasses.dataclass
class View:
    """A scan on one of the grids that a network sees it on.

    Attributes:
        share: of the map made on it in the mean over all views.
        subject: the scan on that grid.
        back: from a map on it to the scan's own grid.
        voxel_mm: edge of its voxels [mm]; None: the scan's own grid.
    """

    share: float
    subject: object
    back: Callable[[np.ndarray], np.ndarray] = lambda chi: chi
    voxel_mm: float | None = None


def check_choice(choice: str) -> None:
    """Raise a ValueError for what is none of `CHOICES`."""
    if choice not in CHOICES:
        raise ValueError(f"align {choice!r}: expected one of {', '.join(CHOICES)}")


def views_of(subject, inputs, voxel_mm: float = 1.0, choice: str = "auto") -> list[View]:
    """The grids on which a network with these inputs ought to see a scan.

    Args:
        subject: a `Subject`.
        inputs: the network's channels; one with a direct inversion knows the grid from that.
        voxel_mm: voxel edge of a plain network's training data [mm].
        choice: "off": the scan's own grid. "on": isotropic voxels of `voxel_mm` with B0 along z.
            "both": the mean of the scan's own grid and a grid of cubes, whose errors differ: of
            the scan's shortest edge where voxels are elongated, the less of it the longer they
            are and the higher the noise; else of `FINER` of that edge; within `TRAINED_MM`, and of
            `COARSE_MM` where all edges are longer than those.
            "auto": "on" for plain networks where tilt or voxel size differ, "both" for others
            where voxels are elongated or coarse.

    Raises:
        ValueError: unknown choice.
    """
    check_choice(choice)
    if choice == "auto":
        choice = _best_choice(subject, inputs, voxel_mm)
    if choice == "off":
        return [View(1.0, subject)]
    if choice == "on":
        turn = Alignment(subject, voxel_mm)
        return [View(1.0, turn.subject, turn.back, voxel_mm)]
    edge, share = _cubes(subject)
    if np.allclose(subject.voxel_size, edge, rtol=1e-3):
        return [View(1.0, subject)]  # they are its own voxels
    turn = Alignment(subject, edge, straighten=False)
    return [View(1 - share, subject), View(share, turn.subject, turn.back, edge)]


def _cubes(subject) -> tuple[float, float]:
    """Edge [mm] of the cubes that a scan is seen on besides its own voxels, and their share."""
    size = subject.voxel_size
    ratio = elongation(size)
    share = min(MOST_OF_CUBES[0], 1 / ratio)
    if ratio < ELONGATED:
        if is_coarse(size):
            return COARSE_MM, COARSE_SHARE
        return float(np.clip(FINER * min(size), *TRAINED_MM)), share
    noise = white_noise(subject.field, subject.mask, size, subject.b0_dir)
    halvings = np.log2(LOW_NOISE / max(noise, 1e-6))
    share = float(np.clip(share + CUBES_BY_NOISE * halvings, share, MOST_OF_CUBES[1]))
    return float(np.clip(min(size), *TRAINED_MM)), share


def _best_choice(subject, inputs, voxel_mm: float) -> str:
    """What "auto" stands for."""
    if set(inputs) - {"field", "mask", "noise"}:
        size = subject.voxel_size
        return "both" if elongation(size) >= ELONGATED or is_coarse(size) else "off"
    change = np.abs(np.asarray(subject.voxel_size) / voxel_mm - 1).max()
    tilted = tilt_degrees(subject.b0_dir) > MAX_TILT_DEG
    return "on" if tilted or change > MAX_SIZE_CHANGE else "off"


def elongation(voxel_size) -> float:
    """Longest over shortest edge of a voxel; to a thousandth, which headers round it to."""
    return round(max(voxel_size) / min(voxel_size), 3)


def is_coarse(voxel_size) -> bool:
    """Whether all edges of a voxel are longer than those that were trained."""
    return round(min(voxel_size), 3) > TRAINED_MM[1]


def tilt_degrees(b0_dir) -> float:
    """Angle between B0 and the third voxel axis [degree]; B0 has no front and back."""
    return degrees_between(b0_dir, (0, 0, 1))


def rotation_to_z(b0_dir) -> np.ndarray:
    """Smallest rotation (3, 3) that brings ±b0_dir to +z (Rodrigues' formula)."""
    b = np.asarray(b0_dir, float) / np.linalg.norm(b0_dir)
    b = b if b[2] >= 0 else -b
    cross = np.array([[0, 0, -b[0]], [0, 0, -b[1]], [b[0], b[1], 0]])
    return np.eye(3) + cross + cross @ cross / (1 + b[2])


class Alignment:
    """A scan on isotropic voxels, turned to B0 ∥ z or not.

    Args:
        subject: a `Subject`.
        voxel_mm: edge of the new voxels [mm].
        straighten: whether B0 is turned to z; a network with direct inversions knows it from them.

    Attributes:
        subject: the turned `Subject`.
    """

    def __init__(self, subject, voxel_mm: float, straighten: bool = True):
        self._mask = subject.mask
        size = np.asarray(subject.voxel_size)
        turn, b0_dir = np.eye(3), subject.b0_dir
        if straighten:
            turn, b0_dir = rotation_to_z(b0_dir), np.array([0.0, 0.0, 1.0])
        box = bounding_box(subject.mask)
        edges = [(s.start * v, (s.stop - 1) * v) for s, v in zip(box, size, strict=True)]
        corners = np.array(list(itertools.product(*edges))) @ turn.T
        first = corners.min(0) - MARGIN * voxel_mm
        extent = corners.max(0) + MARGIN * voxel_mm - first
        self._shape = tuple(int(n) for n in np.ceil(extent / voxel_mm) + 1)
        # new index → old index, and back
        self._there = (turn.T * voxel_mm / size[:, None], turn.T @ first / size)
        self._back = (turn * size / voxel_mm, -first / voxel_mm)
        mask = self._forth(subject.mask.astype(np.float32), order=1) > 0.5
        weight = np.clip(self._forth(subject.weight, order=1), 0, 1) * mask
        self.subject = dataclasses.replace(
            subject, field=self._forth(subject.field) * mask, mask=mask, weight=weight,
            voxel_size=(voxel_mm,) * 3, b0_dir=b0_dir, grid=None,
        )  # fmt: skip

    def _forth(self, data, order: int = SPLINE_ORDER) -> np.ndarray:
        # Beyond the volume lies zero, a voxel away: "constant" would cut the last one in halves.
        return ndimage.affine_transform(
            data, *self._there, self._shape, order=order, mode="grid-constant"
        )

    def back(self, chi) -> np.ndarray:
        """A map on the turned grid, (X', Y', Z'), on the scan's own grid; masked, float32."""
        turned = ndimage.affine_transform(
            chi, *self._back, self._mask.shape, order=SPLINE_ORDER, mode="grid-constant"
        )
        return turned * self._mask
