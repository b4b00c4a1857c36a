"""Smooth random fields and distance functions in head coordinates, for the digital phantom.

Lengths are head millimetres. Fields are drawn on a lattice that is fixed in the head, not on the
voxel grid: the same Generator gives the same head on any grid.
"""

from dataclasses import dataclass, replace

import numpy as np
import scipy.fft
from scipy import ndimage

REACH = (84.0, 104.0, 96.0)  # half extent of the lattices: the largest head fits at any tilt [mm]


@dataclass(frozen=True)
class Frame:
    """A voxel grid seen from the head.

    Attributes:
        axes: three 1-D arrays, voxel centres along the grid's axes, origin in the head's centre.
        matrix: (3, 3), grid axes → head axes (x right, y anterior, z superior); tilt and size.
        origin: head coordinates of the head's centre (AC–PC coordinates, MNI-like).
        edge: width of partial-volume edges, about one voxel.
    """

    axes: tuple[np.ndarray, np.ndarray, np.ndarray]
    matrix: np.ndarray
    origin: np.ndarray
    edge: float

    @property
    def shape(self):
        """Number of voxels along each axis."""
        return tuple(len(a) for a in self.axes)

    def crop(self, box) -> "Frame":
        """The same frame on a box (three slices) of the grid."""
        return replace(self, axes=tuple(a[s] for a, s in zip(self.axes, box, strict=True)))

    def points(self):
        """Head coordinates of all voxels, (3, X, Y, Z) float32."""
        x, y, z = (a.astype(np.float32) for a in self.axes)
        r, o = self.matrix.astype(np.float32), self.origin.astype(np.float32)
        rows = [
            (r[i, 0] * x + o[i])[:, None, None] + (r[i, 1] * y)[:, None] + r[i, 2] * z
            for i in range(3)
        ]
        return np.stack(rows)

    def box(self, low, high) -> tuple[slice, slice, slice]:
        """Box of voxels that holds the head-coordinate box from `low` to `high`."""
        corners = np.stack(np.meshgrid(*zip(low, high, strict=True))).reshape(3, -1)
        grid = np.linalg.inv(self.matrix) @ (corners - self.origin[:, None])
        box = []
        for axis, g in zip(self.axes, grid, strict=True):
            start, stop = np.searchsorted(axis, (g.min() - self.edge, g.max() + self.edge))
            box.append(slice(int(start), int(stop)))
        return tuple(box)


def smooth_noise(frame: Frame, length, rng):
    """Gaussian random field of mean 0 and standard deviation 1.

    White noise on a lattice, spread by a separable Gaussian: three small matrix products, and
    no interpolation of a coarse image.

    Args:
        frame: grid to draw the field on.
        length: standard deviation of the Gaussian, one or three numbers [mm].
        rng: numpy Generator; the number of values drawn does not depend on the grid.

    Returns:
        (X, Y, Z) float32.
    """
    bases = []
    for axis, reach, sigma in zip(frame.axes, REACH, np.broadcast_to(length, 3), strict=True):
        nodes = np.arange(-reach, reach + sigma, 1.4 * sigma)
        basis = np.exp(-0.5 * ((axis[:, None] - nodes) / sigma) ** 2).astype(np.float32)
        bases.append(basis / np.maximum(np.linalg.norm(basis, axis=1, keepdims=True), 1e-6))
    lattice = rng.standard_normal([b.shape[1] for b in bases], np.float32)
    field = np.tensordot(bases[0], lattice, 1)
    field = np.matmul(bases[1], field)
    return (field.reshape(-1, field.shape[2]) @ bases[2].T).reshape(frame.shape)


def ring_noise(wavelength: float, rng, spread: float = 0.22, step: float = 2.0):
    """Function that samples a random field with one dominant wavelength, a labyrinth of waves.

    Args:
        wavelength: dominant wavelength [mm].
        rng: numpy Generator.
        spread: relative width of the band of wave numbers.
        step: lattice spacing [mm].

    Returns:
        callable: points (3, …) [mm, head coordinates] → (…) float32, standard deviation 1.
    """
    shape = [int(2 * 100 / step)] * 3
    k = np.meshgrid(
        *[np.fft.fftfreq(n, step) for n in shape[:2]],
        np.fft.rfftfreq(shape[2], step),
        indexing="ij",
        sparse=True,
    )
    radius = np.sqrt(k[0] ** 2 + k[1] ** 2 + k[2] ** 2) * wavelength
    band = np.exp(-0.5 * ((radius - 1) / spread) ** 2).astype(np.float32)
    spectrum = rng.standard_normal((2, *band.shape), np.float32) * band
    field = scipy.fft.irfftn(spectrum[0] + 1j * spectrum[1], s=shape)
    field /= field.std()
    return lambda points: ndimage.map_coordinates(
        field, np.asarray(points) / np.float32(step) + 50, order=1, mode="grid-wrap"
    )


def value_noise(spacing: float, rng, reach: float = 140.0):
    """Function that samples white noise on a lattice with linear interpolation between its nodes.

    Args:
        spacing: lattice spacing [mm]; rng: numpy Generator; reach: half extent of the lattice [mm].

    Returns:
        callable: points (3, …) [mm] → (…) float32.
    """
    lattice = rng.standard_normal([int(2 * reach / spacing)] * 3, np.float32)
    return lambda points: ndimage.map_coordinates(
        lattice, (points + np.float32(reach)) / np.float32(spacing), order=1, mode="grid-wrap"
    )


def occupancy(distance, edge: float):
    """Share of a voxel inside a surface, from its signed distance (negative inside)."""
    return np.clip(0.5 - distance / edge, 0, 1)


def smooth_min(a, b, width: float):
    """Union of two distance functions with a fillet of about `width` mm in the crease."""
    h = np.maximum(width - np.abs(a - b), 0) / width
    return np.minimum(a, b) - h * h * (width / 4)


def ellipsoid(points, centre, radii, rotation=None, power: float = 2.0):
    """Approximate signed distance to an ellipsoid, a superellipsoid for `power` above 2."""
    d = points - np.asarray(centre, np.float32)[:, None, None, None]
    if rotation is not None:
        d = np.tensordot(rotation.T.astype(np.float32), d, 1)
    d = np.abs(d) / np.asarray(radii, np.float32)[:, None, None, None]
    if power == 2:
        level = np.sqrt(d[0] * d[0] + d[1] * d[1] + d[2] * d[2])
    else:
        level = (d[0] ** power + d[1] ** power + d[2] ** power) ** np.float32(1 / power)
    slope = np.sqrt(sum((d[i] / np.float32(radii[i])) ** 2 for i in range(3)))
    return (level - 1) * level / np.maximum(slope, 1e-3)


def tube(points, path, radii):
    """Signed distance to a polyline with a radius that changes along it.

    Args:
        points: (3, X, Y, Z); path: (N, 3) [mm]; radii: (N,) [mm].
    """
    best = None
    for a, b, ra, rb in zip(path[:-1], path[1:], radii[:-1], radii[1:], strict=True):
        d = points - np.asarray(a, np.float32)[:, None, None, None]
        u = np.asarray(b - a, np.float32)
        t = np.clip(np.tensordot(u, d, 1) / np.float32(max(u @ u, 1e-6)), 0, 1)
        d -= t * u[:, None, None, None]
        distance = np.sqrt((d * d).sum(0)) - (np.float32(ra) + t * np.float32(rb - ra))
        best = distance if best is None else np.minimum(best, distance, out=best)
    return best


def rotation_matrix(angles) -> np.ndarray:
    """Rotation about x, then y, then z; angles in degrees."""
    (ca, cb, cg), (sa, sb, sg) = np.cos(np.radians(angles)), np.sin(np.radians(angles))
    x = np.array([[1, 0, 0], [0, ca, -sa], [0, sa, ca]])
    y = np.array([[cb, 0, sb], [0, 1, 0], [-sb, 0, cb]])
    z = np.array([[cg, -sg, 0], [sg, cg, 0], [0, 0, 1]])
    return z @ y @ x
