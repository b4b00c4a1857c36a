"""Augmentation of susceptibility maps: elastic transform, contrast, sources, veins, masks, flips.

Arrays in, arrays out; every random number comes from the Generator passed in. χ in ppm, lengths in
mm, volumes (X, Y, Z). The elastic transform follows Simard 2003 (doi:10.1109/ICDAR.2003.1227801),
the formulas and chances the QSMInvNet release of 2020.
"""

import math

import numpy as np
from scipy import ndimage

from training_data import shapes
from training_data.volume import bounding_box

ELASTIC_MODES = ("inplane", "3d", "none")
CONTRASTS = ("linear", "gamma", "log", "sigmoid", "none")
SHAPES = ("ellipsoid", "sphere", "cuboid", "cylinder", "none")
_SIMPLEX = {
    2: np.array([(1, 1), (1, -1), (-1, -1)]),
    3: np.array([(1, 1, 1), (1, -1, -1), (-1, 1, -1), (-1, -1, 1)]),
}


def smooth_noise(shape, sigma: float, rng) -> np.ndarray:
    """Gaussian filter of white noise U(−1, 1), zero outside the grid: G_σ(noise).

    Equal to ``scipy.ndimage.gaussian_filter(noise, sigma, mode="constant")``, but as three matrix
    products, ten times faster for the wide filters used here.

    Args:
        shape: grid (X, Y, Z).
        sigma: standard deviation of the filter [voxels].
        rng: numpy Generator.

    Returns:
        (X, Y, Z) float32.
    """
    noise = rng.random(shape, dtype=np.float32) * 2 - 1
    for n in shape:
        matrix = ndimage.gaussian_filter1d(np.eye(n), sigma, axis=0, mode="constant")
        # Each product takes the first axis away and puts it last; after three all are in place.
        noise = np.tensordot(noise, matrix.astype(np.float32), axes=(0, 1))
    return noise


def random_affine(shape, share: float, rng) -> tuple[np.ndarray, np.ndarray]:
    """Affine map given by the corners of a simplex around the centre, each moved by U(−a, a).

    The corners lie a third of the grid from its centre along every axis.

    Args:
        shape: grid of 2 or 3 axes: three or four corners.
        share: largest move a of a corner along an axis, as a share of that axis.
        rng: numpy Generator.

    Returns:
        matrix (d, d), offset (d,): output voxel p takes its value from matrix @ p + offset.
    """
    size = np.array(shape)
    fixed = size // 2 + np.maximum(size // 3, 1) * _SIMPLEX[len(shape)]
    moved = fixed + rng.uniform(-share * size, share * size, fixed.shape)
    solution = np.linalg.solve(np.column_stack([moved, np.ones(len(moved))]), fixed)
    return solution[:-1].T, solution[-1]


def displace(x, displacement) -> np.ndarray:
    """Move a volume by a displacement field: out(p) = x(p + d(p)), linear, zero outside the grid.

    Args:
        x: (X, Y, Z) float32.
        displacement: fields (X, Y, Z) [voxels], for the first two axes or for all three.

    Returns:
        (X, Y, Z) float32.
    """
    out = np.zeros(x.shape, np.float32)
    if not x.any():
        return out
    reach = [int(np.ceil(np.abs(d).max())) + 1 for d in displacement] + [1]
    # Only voxels within reach of the volume's non-zero box can receive anything.
    box = tuple(
        slice(max(0, s.start - r), s.stop + r)
        for s, r in zip(bounding_box(x != 0), reach[:3], strict=True)
    )
    start = np.array([s.start for s in box]).reshape(3, 1, 1, 1)
    points = np.indices(out[box].shape, dtype=np.float32) + start.astype(np.float32)
    for axis, d in enumerate(displacement):
        points[axis] += d[box]
    out[box] = ndimage.map_coordinates(x, points, order=1, mode="constant", cval=0.0)
    return out


def elastic(x, rng, mode="inplane", alpha=2.0, sigma=0.08, affine=0.08) -> np.ndarray:
    """Elastic transform: a random affine map, then random smooth displacements.

    The affine map moves its corners by U(−a, a), a = affine times the size of the axis, borders
    mirrored. With N the size of the second axis, the displacements are alpha·N · G_σ(U(−1, 1)),
    σ = sigma·N voxels, zero outside. Both interpolate linearly.

    Args:
        x: (X, Y, Z) float32.
        rng: numpy Generator.
        mode: "inplane" (2020: one 2-D affine map for all axial slices, no displacement in z), "3d"
            (a 3-D affine map and three displacements), or "none".
        alpha, sigma, affine: these shares; 0 for alpha or affine leaves that part out.

    Returns:
        (X, Y, Z) float32.

    Raises:
        ValueError: unknown mode, a negative share, or no width for the displacements.
    """
    if mode not in ELASTIC_MODES:
        raise ValueError(f"elastic {mode!r}: expected one of {', '.join(ELASTIC_MODES)}")
    if min(alpha, sigma, affine) < 0 or (alpha > 0 and sigma == 0):
        raise ValueError(
            f"elastic alpha {alpha}, sigma {sigma}, affine {affine}: expected shares ≥ 0 of the "
            "grid's size, and sigma > 0 where alpha > 0"
        )
    if mode == "none":
        return x.astype(np.float32)
    axes, n = (2 if mode == "inplane" else 3), x.shape[1]
    matrix, offset = np.eye(3), np.zeros(3)
    matrix[:axes, :axes], offset[:axes] = random_affine(x.shape[:axes], affine, rng)
    x = x.astype(np.float32, copy=False)
    if affine > 0:
        x = ndimage.affine_transform(x, matrix, offset, order=1, mode="mirror")
    if alpha == 0:
        return x
    scale = np.float32(alpha * n)
    return displace(x, [scale * smooth_noise(x.shape, sigma * n, rng) for _ in range(axes)])


def largest_component(mask) -> np.ndarray:
    """Largest 6-connected component of a mask (X, Y, Z) bool.

    Raises:
        ValueError: the mask is empty.
    """
    box = bounding_box(mask)
    labels, _ = ndimage.label(mask[box])
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    out = np.zeros(mask.shape, bool)
    out[box] = labels == sizes.argmax()
    return out


def draw_contrast(rng, kinds=(*CONTRASTS, "none")) -> dict:
    """Draw one of `kinds` with equal chance and its parameters c and k, for `adjust_contrast`.

    c = 1 + 0.1·N(0, 1), k = 0.5 + 0.05·N(0, 1).

    Raises:
        ValueError: an unknown kind, or none at all.
    """
    if not kinds or not set(kinds) <= set(CONTRASTS):
        raise ValueError(f"contrasts {kinds}: expected some of {', '.join(CONTRASTS)}")
    kind = kinds[int(rng.integers(len(kinds)))]
    c, k = 1 + 0.1 * rng.standard_normal(), 0.5 + 0.05 * rng.standard_normal()
    return {"kind": kind, "c": float(c), "k": float(k)}


def adjust_contrast(x, kind: str, c: float, k: float = 0.5):
    """Change the contrast of χ; zero stays zero.

    linear c·x · gamma s·((|x + s/2|/s)^c − (1/2)^c), s = 0.3 · log sign(x)·c·s·log2(1 + |x|/s),
    s = 0.1 · sigmoid s/(1 + e^{g(k − |x + s/2|/s)}) − s/(1 + e^{g(k − 1/2)}), s = 0.3, g = c + 4.

    Args:
        x: susceptibility [ppm], any shape.
        kind: one of CONTRASTS.
        c: strength, about 1.
        k: cutoff of the sigmoid, about 0.5.

    Returns:
        array like x [ppm].

    Raises:
        ValueError: unknown kind.
    """
    if kind == "none":
        return x
    if kind == "linear":
        return c * x
    if kind == "log":
        s = 0.1
        return np.sign(x) * (c * s) * np.log2(1 + np.abs(x) / s)
    s = 0.3
    share = np.abs(x + s / 2) / s
    if kind == "gamma":
        return s * (share**c - 0.5**c)
    if kind == "sigmoid":
        gain = c + 4
        return s / (1 + np.exp(gain * (k - share))) - s / (1 + math.exp(gain * (k - 0.5)))
    raise ValueError(f"contrast {kind!r}: expected one of {', '.join(CONTRASTS)}")


def pick(chances: dict, rng, what: str):
    """Draw a key of a dict of chances; they are made to sum to one.

    Raises:
        ValueError: no chance above zero, or a negative one; the message names `what`.
    """
    weights = np.array(list(chances.values()), float)
    if weights.size == 0 or not (weights >= 0).all() or not 0 < weights.sum() < np.inf:
        raise ValueError(f"{what} {chances}: expected chances ≥ 0, one of them above 0")
    return list(chances)[int(rng.choice(len(weights), p=weights / weights.sum()))]


def random_voxel(mask, rng) -> list[int]:
    """Indices of a voxel drawn from a mask (X, Y, Z) bool.

    Raises:
        ValueError: the mask is empty.
    """
    inside = np.flatnonzero(mask)
    if inside.size == 0:
        raise ValueError("no voxel left in the mask to place a source in: the brain is too small")
    flat = inside[int(rng.integers(inside.size))]
    return [int(i) for i in np.unravel_index(flat, mask.shape)]


def random_source(mask, voxel_size, rng, chances: dict, axes=(1, 5)):
    """A solid of random kind, place, size and turn, cut to a mask.

    Args:
        mask: (X, Y, Z) bool, where its centre lies and where it is cut.
        voxel_size: 3 floats [mm].
        rng: numpy Generator.
        chances: chance of each of SHAPES, e.g. {"ellipsoid": 0.25, "none": 0.75}.
        axes: smallest and largest semi-axis, whole mm.

    Returns:
        (X, Y, Z) bool or None for the shape "none", and a dict of what was drawn.

    Raises:
        ValueError: an unknown shape, bad chances, or an empty mask.
    """
    if not set(chances) <= set(SHAPES):
        raise ValueError(f"source shapes {list(chances)}: expected some of {', '.join(SHAPES)}")
    kind = pick(chances, rng, "source shapes")
    if kind == "none":
        return None, {"shape": kind}
    centre = random_voxel(mask, rng)
    semi_axes = rng.integers(axes[0], axes[1], 3, endpoint=True).tolist()
    angles = rng.integers(0, 360, 3).tolist()
    drawn = {"shape": kind, "centre": centre, "semi_axes_mm": semi_axes, "angles_deg": angles}
    if kind == "sphere":
        drawn = {"shape": kind, "centre": centre, "semi_axes_mm": semi_axes[:1]}
        return shapes.sphere(mask.shape, centre, semi_axes[0], voxel_size) & mask, drawn
    solid = getattr(shapes, kind)(mask.shape, centre, semi_axes, angles, voxel_size)
    return solid & mask, drawn


def add_veins(chi, mask, voxel_size, rng, count: int) -> list[dict]:
    """Add curved tubes of +0.1 to 0.45 ppm and 0.4 to 1.5 mm radius to χ, in place.

    Args:
        chi: (X, Y, Z) float32 [ppm]; changed.
        mask: (X, Y, Z) bool, where they start and where they are cut.
        voxel_size: 3 floats [mm].
        rng: numpy Generator.
        count: number of veins.

    Returns:
        a dict per vein of what was drawn.
    """
    drawn = []
    for _ in range(count):
        start, radius = random_voxel(mask, rng), float(rng.uniform(0.4, 1.5))
        value, length = float(rng.uniform(0.1, 0.45)), float(rng.uniform(20, 80))
        path = shapes.curved_path(start, length, rng, voxel_size)
        cover = shapes.tube(mask.shape, path, radius, voxel_size)
        hit = np.nonzero((cover > 0) & mask)
        # The vein replaces the tissue it fills, instead of adding to it.
        chi[hit] += cover[hit] * (np.float32(value) - chi[hit])
        drawn.append({"centre": start, "radius_mm": radius, "ppm": value, "length_mm": length})
    return drawn


def damage_mask(mask, rng, erosion: int = 0, holes: int = 0, times: int = 1):
    """A worse mask, as masking of a scan gives: eroded by 0 to `erosion` voxels, with holes.

    Args:
        mask: (X, Y, Z) bool.
        rng: numpy Generator.
        erosion: most voxels to erode.
        holes: most holes to cut, ellipsoids of semi-axes 1 to 5 voxels.
        times: of these voxels' edge over that of the mask's, a whole number.

    Returns:
        mask (X, Y, Z) bool, and a dict of what was drawn.
    """
    voxels = int(rng.integers(0, erosion, endpoint=True))
    number = int(rng.integers(0, holes, endpoint=True))
    out = ndimage.binary_erosion(mask, iterations=voxels * times) if voxels else mask.copy()
    for _ in range(number):
        centre, semi_axes = random_voxel(mask, rng), rng.integers(1, 5, 3, endpoint=True) * times
        out &= ~shapes.ellipsoid(mask.shape, centre, semi_axes, rng.integers(0, 360, 3))
    return out, {"erosion_voxels": voxels, "holes": number}


def tilt(b0_dir, degrees: float, rng) -> tuple[list[float], float]:
    """Turn B0 by an angle U(0, degrees) about a random axis perpendicular to it.

    Args:
        b0_dir: unit vector in voxel axes.
        degrees: largest angle.
        rng: numpy Generator.

    Returns:
        unit vector in voxel axes, angle [degrees].
    """
    b0_dir = np.asarray(b0_dir, float) / np.linalg.norm(b0_dir)
    angle = float(rng.uniform(0, degrees))
    sideways = rng.standard_normal(3)
    sideways -= sideways @ b0_dir * b0_dir
    sideways /= np.linalg.norm(sideways)
    turned = np.cos(np.radians(angle)) * b0_dir + np.sin(np.radians(angle)) * sideways
    return turned.tolist(), angle
