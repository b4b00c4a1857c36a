"""Bring a scan to the grid that a plain network was trained on, and its map back.

A network of field and mask alone has learned one voxel size and B0 along z. Its input is resampled
to that size with B0 turned along z, and its output back, by one spline interpolation each way
(Dixon et al. 2023, PMC10953050: aligning the local field is the most accurate way for direct
inversions of tilted slabs).
"""

import dataclasses
import itertools

import numpy as np
from scipy import ndimage

from training_data.volume import bounding_box

CHOICES = ("auto", "on", "off")
MAX_TILT_DEG = 2.0  # tilt that training data of a straight head tolerate
MAX_SIZE_CHANGE = 0.1  # relative difference of a voxel's edge
MARGIN = 2  # voxels around the turned box, for the spline's support
SPLINE_ORDER = 3


def needs_alignment(subject, inputs, voxel_mm: float, choice: str = "auto") -> bool:
    """Whether a scan ought to be aligned before a network with these inputs sees it.

    Args:
        subject: a `Subject`.
        inputs: the network's channels; one with a direct inversion knows the grid from that.
        voxel_mm: voxel edge of the training data [mm].
        choice: "on", "off", or "auto": for plain networks where tilt or voxel size differ.

    Raises:
        ValueError: unknown choice.
    """
    if choice not in CHOICES:
        raise ValueError(f"align {choice!r}: expected one of {', '.join(CHOICES)}")
    if choice != "auto":
        return choice == "on"
    if set(inputs) - {"field", "mask", "noise"}:
        return False
    change = np.abs(np.asarray(subject.voxel_size) / voxel_mm - 1).max()
    return tilt_degrees(subject.b0_dir) > MAX_TILT_DEG or change > MAX_SIZE_CHANGE


def tilt_degrees(b0_dir) -> float:
    """Angle between B0 and the third voxel axis [degree]; B0 has no front and back."""
    return float(np.degrees(np.arccos(np.clip(abs(b0_dir[2]), 0, 1))))


def rotation_to_z(b0_dir) -> np.ndarray:
    """Smallest rotation (3, 3) that brings ±b0_dir to +z (Rodrigues' formula)."""
    b = np.asarray(b0_dir, float) / np.linalg.norm(b0_dir)
    b = b if b[2] >= 0 else -b
    cross = np.array([[0, 0, -b[0]], [0, 0, -b[1]], [b[0], b[1], 0]])
    return np.eye(3) + cross + cross @ cross / (1 + b[2])


class Alignment:
    """A scan turned to B0 ∥ z on isotropic voxels.

    Args:
        subject: a `Subject`.
        voxel_mm: edge of the new voxels [mm].

    Attributes:
        subject: the turned `Subject`.
    """

    def __init__(self, subject, voxel_mm: float):
        self._mask = subject.mask
        size, turn = np.asarray(subject.voxel_size), rotation_to_z(subject.b0_dir)
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
            voxel_size=(voxel_mm,) * 3, b0_dir=np.array([0.0, 0.0, 1.0]), grid=None,
        )  # fmt: skip

    def _forth(self, data, order: int = SPLINE_ORDER) -> np.ndarray:
        return ndimage.affine_transform(data, *self._there, self._shape, order=order)

    def back(self, chi) -> np.ndarray:
        """A map on the turned grid, (X', Y', Z'), on the scan's own grid; masked, float32."""
        turned = ndimage.affine_transform(chi, *self._back, self._mask.shape, order=SPLINE_ORDER)
        return turned * self._mask
