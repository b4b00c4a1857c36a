"""Veins of the digital phantom: curved branching tubes, and pial veins that lie in the sulci.

Paths are in head coordinates [mm], as in phantom.py.
"""

import numpy as np
from scipy import ndimage
from scipy.interpolate import make_interp_spline

from training_data.phantom_fields import occupancy, ring_noise, smooth_noise

# (x, y, z, radius) along the vein [mm]; those off the midline have a twin on the other side
MIDLINE = (
    np.array([(0, -42, 6, 1.4), (0, -48, 8, 1.4), (0, -62, 6, 1.3), (0, -82, -4, 1.3)]),  # straight
    np.array([(0, 22, 32, 0.6), (0, 0, 38, 0.8), (0, -22, 37, 0.9), (0, -40, 26, 1.1),
              (0, -48, 10, 1.3)]),  # inferior sagittal
)  # fmt: skip
PAIRED = (
    np.array([(3, 4, 6, 0.8), (2, -8, 12, 1.0), (2, -22, 14, 1.2), (1.5, -34, 12, 1.3),
              (0, -42, 6, 1.6)]),  # internal cerebral
    np.array([(13, -3, -16, 0.7), (16, -14, -13, 0.9), (15, -26, -7, 1.1), (8, -36, 0, 1.3),
              (0, -42, 6, 1.6)]),  # basal
    np.array([(24, -18, 19, 0.5), (18, -6, 17, 0.7), (9, 4, 11, 0.8), (3, 4, 6, 0.8)]),  # striate
    np.array([(8, 26, 12, 0.5), (4, 16, 10, 0.6), (3, 4, 6, 0.8)]),  # septal
    np.array([(22, -42, 18, 0.6), (10, -40, 16, 0.8), (1.5, -36, 11, 1.0)]),  # atrial
)  # fmt: skip


def paint_veins(canvas, points, surfaces, rng):
    """Paint all veins of a head.

    Args:
        canvas: canvas of phantom.py, changed in place.
        points: (3, X, Y, Z) head coordinates of the voxels [mm].
        surfaces: distances [mm], of which ``sulci`` and ``depth`` are read.
        rng: numpy Generator.
    """
    paths = [_wiggled(path, 0.5, rng) for path in MIDLINE]
    for side in (-1, 1):
        paths += [_wiggled(path * (side, 1, 1, 1), 0.7, rng) for path in PAIRED]
    paths += [_branch(path, rng) for path in list(paths) for _ in range(rng.integers(1, 4))]
    paths += [_branch(path, rng) for path in paths[-20:]]
    paths += _medullary_veins(rng) + _surface_veins(rng)
    share = _drawn(canvas.frame, points, paths)
    share = np.maximum(share, _pial_veins(canvas.frame, surfaces, rng))
    chi = canvas.values["blood"][0] * (1 + 0.22 * smooth_noise(canvas.frame, 9, rng))
    canvas.paint("blood", share, chi=chi)


def _wiggled(path, amount, rng):
    """A path with its inner points moved; the ends stay, so that veins meet."""
    path = path.copy()
    path[1:-1, :3] += rng.normal(0, amount, (len(path) - 2, 3))
    path[:, 3] *= np.exp(rng.normal(0, 0.15))
    return path


def _branch(path, rng):
    """A thinner vein that leaves a path somewhere and curves away from the middle."""
    start = path[rng.integers(0, len(path))]
    outward = np.sign(start[0] + rng.normal(0, 2)) * np.array([1.0, 0, 0])
    heading = outward + rng.normal(0, 0.6, 3)
    steps = heading / np.linalg.norm(heading) + rng.normal(0, 0.45, (4, 3))
    spots = start[:3] + np.cumsum(np.vstack([np.zeros(3), steps * rng.uniform(2, 5)]), 0)
    radii = max(start[3] * rng.uniform(0.4, 0.75), 0.3) * np.linspace(1, 0.6, 5)
    return np.column_stack([spots, radii])


def _medullary_veins(rng):
    """Thin veins that fan out from the lateral ventricles into the white matter."""
    veins = []
    for _ in range(rng.integers(60, 110)):
        side = rng.choice((-1, 1))
        start = np.array([side * rng.uniform(9, 22), rng.uniform(-45, 28), rng.uniform(12, 24)])
        heading = np.array([side * rng.uniform(0.5, 1.2), rng.normal(0, 0.35), rng.uniform(0, 0.9)])
        heading *= rng.uniform(8, 24) / np.linalg.norm(heading)
        spots = start + np.linspace(0, 1, 4)[:, None] * heading + rng.normal(0, 0.7, (4, 3))
        veins.append(np.column_stack([spots, np.full(4, rng.uniform(0.2, 0.5))]))
    return veins


def _surface_veins(rng):
    """Superior sagittal sinus along the upper midline, and veins that climb to it."""
    angles = np.radians(np.linspace(15, 200, 14))
    arch = np.stack([np.zeros(14), np.cos(angles), np.sin(angles)], 1)
    spots = _on_hull(arch, 0.985)
    spots[:, 0] += rng.normal(0, 0.5, 14)
    veins = [np.column_stack([spots, np.linspace(0.5, 1.5, 14) * np.exp(rng.normal(0, 0.15))])]
    for _ in range(rng.integers(34, 56)):
        angle, side = rng.uniform(0.5, 2.9), rng.choice((-1, 1))
        tilt = np.linspace(0, rng.uniform(0.3, 1.3), 7)
        turn = angle + np.cumsum(rng.normal(0, 0.06, 7))
        ray = np.stack([side * np.sin(tilt), np.cos(turn) * np.cos(tilt),
                        np.sin(turn) * np.cos(tilt)], 1)  # fmt: skip
        spots = _on_hull(ray, 0.98) + rng.normal(0, 0.5, (7, 3))
        veins.append(np.column_stack([spots, rng.uniform(0.35, 0.95) * np.linspace(1, 0.5, 7)]))
    veins += [_branch(v, rng) for v in veins[1:] for _ in range(2)]
    return veins


def _on_hull(ray, depth):
    """Points on the upper hull of phantom.py, at a share `depth` of the radius along rays."""
    radius = (np.abs(ray / np.array([67, 87, 62])) ** 2.3).sum(1) ** (-1 / 2.3)
    spots = ray * radius[:, None] * depth + np.array([0, -17, 12])
    spots[:, 0] /= 1 + 0.0013 * (spots[:, 1] + 22) + 0.0010 * (spots[:, 2] - 10)
    return spots


def _drawn(frame, points, paths):
    """Share of blood in each voxel of tubes along paths, (X, Y, Z) float32 in 0…1."""
    dense = np.concatenate([_resampled(path, 0.4 * frame.edge) for path in paths])
    steps = np.array([a[1] - a[0] for a in frame.axes])
    start = np.array([a[0] for a in frame.axes])
    to_grid = np.linalg.inv(frame.matrix)
    target = dense[:, :3].T
    index = (to_grid @ (target - frame.origin[:, None]) - start[:, None]) / steps[:, None]
    for _ in range(3):  # the anatomy is warped: walk to the voxel whose head coordinates are these
        here = [ndimage.map_coordinates(p, index, order=1, mode="nearest") for p in points]
        index += to_grid @ (target - np.stack(here)) / steps[:, None]
    share = np.zeros(frame.shape, np.float32)
    reach = np.ceil((dense[:, 3] + 0.5 * frame.edge)[:, None] / steps).astype(int).max(1)
    for r in np.unique(reach):
        _splat(share, index[:, reach == r], dense[reach == r, 3], r, (steps, frame.edge))
    return share


def _splat(share, index, radius, reach, scale):
    """Raise `share` around points (3, N) on the grid to that of balls of the given radii [mm]."""
    steps, edge = scale
    base = np.rint(index).astype(int)
    thin = np.minimum(1, 3.0 * (radius / edge) ** 2)  # a tube thinner than a voxel fills part of it
    for offset in np.ndindex((2 * reach + 1,) * 3):
        voxel = base + (np.array(offset) - reach)[:, None]
        inside = np.all((voxel >= 0) & (voxel < np.array(share.shape)[:, None]), axis=0)
        distance = np.sqrt((((voxel - index) * steps[:, None]) ** 2).sum(0))
        value = (thin * occupancy(distance - radius, edge)).astype(np.float32)
        hit = inside & (value > 0)
        np.maximum.at(share, tuple(voxel[:, hit]), value[hit])


def _resampled(path, step):
    """Points (x, y, z, radius) every `step` mm along a smooth curve through a path's points."""
    lengths = np.linalg.norm(np.diff(path[:, :3], axis=0), axis=1)
    along = np.concatenate([[0], np.cumsum(np.maximum(lengths, 1e-3))])
    curve = make_interp_spline(along, path, k=min(3, len(path) - 1))
    dense = curve(np.linspace(0, along[-1], max(2, int(along[-1] / step) + 1)))
    dense[:, 3] = np.clip(dense[:, 3], path[:, 3].min(), path[:, 3].max())
    return dense


def _pial_veins(frame, surfaces, rng):
    """Veins in the sulci: where the sulcal sheets meet a second family of random surfaces."""
    waves = ring_noise(rng.uniform(26, 34), rng)(frame.points())
    slope = np.sqrt(sum(np.gradient(waves, a, axis=i) ** 2 for i, a in enumerate(frame.axes)))
    distance = np.hypot(surfaces["sulci"], waves / (slope + np.float32(0.005)))
    radius = np.clip(0.42 + 0.45 * smooth_noise(frame, 9, rng), 0, 1.0)
    radius *= (surfaces["depth"] < 14) & (surfaces["depth"] > -1)
    thin = np.minimum(1, 3.0 * (radius / frame.edge) ** 2)
    return thin * occupancy(distance - radius, frame.edge)
