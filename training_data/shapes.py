"""Solids in a volume: ellipsoid, sphere, cuboid, cylinder, curved tube.

A solid is given in mm at a centre in voxel indices, so that it keeps its form on any voxel size and
its place on any grid. Only the box around the solid is computed.
"""

import numpy as np
from scipy.interpolate import CubicSpline
from scipy.spatial.transform import Rotation


def ellipsoid(shape, centre, semi_axes, angles=(0, 0, 0), voxel_size=(1.0, 1.0, 1.0)):
    """Ellipsoid.

    Args:
        shape: grid (X, Y, Z).
        centre: 3 voxel indices, whole or not, inside the grid or not.
        semi_axes: 3 lengths [mm] along the solid's own axes.
        angles: Euler angles [degrees] about the grid's x, then y, then z axis.
        voxel_size: 3 floats [mm].

    Returns:
        (X, Y, Z) bool, true where a voxel's centre lies in the solid.

    Raises:
        ValueError: a length that is not positive, or not three of something.
    """
    return _solid(shape, centre, semi_axes, angles, voxel_size, lambda u: (u**2).sum(0) <= 1)


def sphere(shape, centre, radius: float, voxel_size=(1.0, 1.0, 1.0)):
    """Sphere of a radius in mm; the rest as `ellipsoid`."""
    return ellipsoid(shape, centre, (radius,) * 3, voxel_size=voxel_size)


def cuboid(shape, centre, semi_axes, angles=(0, 0, 0), voxel_size=(1.0, 1.0, 1.0)):
    """Box with edges of twice the semi-axes [mm]; the rest as `ellipsoid`."""
    return _solid(shape, centre, semi_axes, angles, voxel_size, lambda u: abs(u).max(0) <= 1)


def cylinder(shape, centre, semi_axes, angles=(0, 0, 0), voxel_size=(1.0, 1.0, 1.0)):
    """Cylinder with an elliptic base (first two semi-axes [mm]) and half a length (the third)."""
    return _solid(
        shape,
        centre,
        semi_axes,
        angles,
        voxel_size,
        lambda u: (u[0] ** 2 + u[1] ** 2 <= 1) & (abs(u[2]) <= 1),
    )


def _solid(shape, centre, semi_axes, angles, voxel_size, inside):
    """Fill the voxels whose coordinates, turned and divided by the semi-axes, are `inside`."""
    semi_axes, voxel_size = np.asarray(semi_axes, float), np.asarray(voxel_size, float)
    centre = np.asarray(centre, float)
    for name, value in (("semi_axes", semi_axes), ("voxel_size", voxel_size)):
        if value.shape != (3,) or not (value > 0).all():
            raise ValueError(f"{name} {value.tolist()}: expected three positive lengths in mm")
    if centre.shape != (3,) or len(shape) != 3:
        raise ValueError(f"centre {centre.tolist()}, shape {tuple(shape)}: expected three of each")
    reach = np.linalg.norm(semi_axes) / voxel_size
    start = np.clip(np.floor(centre - reach), 0, shape).astype(int)
    stop = np.clip(np.ceil(centre + reach) + 1, start, shape).astype(int)
    index = np.indices(stop - start).reshape(3, -1) + start[:, None]
    millimetres = (index - centre[:, None]) * voxel_size[:, None]
    turned = Rotation.from_euler("xyz", angles, degrees=True).as_matrix().T @ millimetres
    out = np.zeros(shape, bool)
    # 1e-9 keeps the voxels at the ends of whole-number semi-axes after a turn by 90°.
    out[tuple(index)] = inside(turned / semi_axes[:, None] * (1 - 1e-9))
    return out


def tube(shape, path, radius: float, voxel_size=(1.0, 1.0, 1.0)):
    """Tube of a round cross-section around a curve, such as a vein.

    Args:
        shape: grid (X, Y, Z).
        path: (N, 3) points of the curve in voxel indices, less than half a voxel apart.
        radius: [mm]; may be thinner than a voxel.
        voxel_size: 3 floats [mm].

    Returns:
        (X, Y, Z) float32 share of each voxel that the tube fills, about; 0 to 1.
    """
    voxel_size = np.asarray(voxel_size, float)
    edge = float(np.prod(voxel_size) ** (1 / 3))
    reach = np.ceil((radius + edge) / voxel_size).astype(int)
    offsets = np.indices(2 * reach + 1).reshape(3, -1).T - reach
    path = np.asarray(path, float)
    index = np.rint(path).astype(int)[:, None] + offsets
    distance = np.linalg.norm((index - path[:, None]) * voxel_size, axis=-1)
    # The edge is a ramp one voxel wide, whose cross-section sums to π(ramp² + edge²/12); ramp is
    # chosen so that this is πr². The thinnest ramp, edge/2, is a cone of πedge²/3: scaled for less.
    ramp = np.sqrt(max(radius**2 - edge**2 / 12, edge**2 / 4))
    cover = np.clip((ramp - distance) / edge + 0.5, 0, 1) * min(1, 3 * (radius / edge) ** 2)
    inside = ((index >= 0) & (index < np.asarray(shape))).all(-1) & (cover > 0)
    out = np.zeros(shape, np.float32)
    np.maximum.at(out, tuple(index[inside].T), cover[inside].astype(np.float32))
    return out


def curved_path(start, length: float, rng, voxel_size=(1.0, 1.0, 1.0), step: float = 8.0):
    """Smooth random curve: a spline through a walk whose direction turns a little at every step.

    Args:
        start: 3 voxel indices.
        length: of the walk [mm].
        rng: numpy Generator.
        voxel_size: 3 floats [mm].
        step: length of one leg [mm]; shorter ones wind more.

    Returns:
        (N, 3) points in voxel indices, less than half a voxel apart.
    """
    legs = max(2, round(length / step))
    turns = np.cumsum(rng.normal(0, 0.5, (legs, 3)), axis=0)
    directions = rng.normal(size=3) + turns
    directions *= step / np.linalg.norm(directions, axis=1, keepdims=True)
    corners = np.concatenate([np.zeros((1, 3)), np.cumsum(directions, axis=0)])
    points = np.linspace(0, legs, int(np.ceil(legs * step / min(voxel_size) * 4)))
    return np.asarray(start, float) + CubicSpline(range(legs + 1), corners)(points) / voxel_size
