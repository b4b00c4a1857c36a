"""A digital head for susceptibility mapping: anatomy, χ, T2* and magnitude from a seed.

No image is needed. Every surface is a signed distance function in head coordinates (x right,
y anterior, z superior, AC–PC origin, about MNI space) that a random smooth warp and random sizes
change from head to head; the cortex folds along the zero surfaces of a random field of one dominant
wavelength. Edges share voxels in proportion, as partial volume does.

χ [ppm] of the tissues is close to that of the in-silico head of the 2019 challenge (Marques 2021,
doi:10.1002/mrm.28716), which rests on in vivo maps (see also Li 2011, NeuroImage 55:1645); the
dentate and CSF are lower and putamen a little higher, as COSMOS maps show them. Haemorrhage and
calcification: Chen 2014, Radiology 270:496. R2* follows Peters 2007 (Magn Reson Imaging 25:748),
who found that it rises about linearly with B0.
"""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from training_data.phantom_fields import (
    Frame,
    ellipsoid,
    occupancy,
    ring_noise,
    rotation_matrix,
    smooth_min,
    smooth_noise,
    tube,
    value_noise,
)
from training_data.phantom_veins import paint_veins
from training_data.volume import check_size

# Numbers of the public scorer (qsm-ci); it has none for haemorrhage, 17 is free there.
LABELS = {
    "caudate": 1, "pallidum": 2, "putamen": 3, "red_nucleus": 4, "dentate": 5, "nigra": 6,
    "thalamus": 7, "white_matter": 8, "grey_matter": 9, "csf": 10, "blood": 11,
    "calcification": 16, "haemorrhage": 17,
}  # fmt: skip

# χ [ppm], its standard deviation from head to head [ppm] and inside the tissue [ppm],
# R2* at 3 T [1/s], signal at TE = 0 of a spoiled gradient echo, which keeps CSF dark by its long T1
TISSUES = {
    "caudate": (0.046, 0.008, 0.011, 24.0, 0.82),
    "pallidum": (0.131, 0.014, 0.024, 42.0, 0.76),
    "putamen": (0.050, 0.007, 0.016, 32.0, 0.82),
    "red_nucleus": (0.100, 0.015, 0.016, 36.0, 0.78),
    "dentate": (0.110, 0.015, 0.020, 34.0, 0.78),
    "nigra": (0.111, 0.015, 0.020, 38.0, 0.78),
    "thalamus": (0.020, 0.006, 0.013, 21.0, 0.80),
    "white_matter": (-0.028, 0.003, 0.009, 19.0, 0.82),
    "grey_matter": (0.020, 0.003, 0.012, 15.0, 0.80),
    "csf": (0.014, 0.003, 0.006, 3.0, 0.50),
    "blood": (0.190, 0.020, 0.020, 50.0, 0.85),
    "calcification": (-2.0, 0.0, 0.15, 150.0, 0.35),
    "haemorrhage": (1.1, 0.0, 0.15, 120.0, 0.75),
}
IRON = ("caudate", "pallidum", "putamen", "red_nucleus", "dentate", "nigra")
DEEP_WHITE = -0.018  # χ of deep less that of subcortical white matter [ppm], as COSMOS maps show it
LEAST_SHAPE = 16  # voxels along an axis that a head needs
R2STAR_EXPONENT = 0.82  # R2* ∝ B0^0.82, a little below linear: Peters 2007, 3 and 7 T

# Right half of paired nuclei: centre, semi-axes [mm], rotation about x, y, z [degree]
NUCLEI = (
    ("grey_matter", (23, -4, -19), (7, 7.5, 6.5), (0, 0, 0)),
    ("putamen", (26.5, 2, 0), (7.0, 17, 12), (0, -8, 20)),
    ("pallidum", (19.0, -4, -0.5), (5.7, 11.8, 8.0), (0, -12, 28)),
    ("thalamus", (11, -18, 7), (8.8, 15.5, 9.2), (-8, 0, 22)),
    ("red_nucleus", (5.0, -20, -9), (3.3, 3.7, 4.2), (0, 0, 0)),
    ("nigra", (10.5, -17, -12), (2.5, 7.8, 4.8), (25, -20, 38)),
    ("nigra", (11, -13, -6.5), (1.9, 4.6, 2.8), (0, -25, 35)),
)
CAUDATE = np.array([(8, 13, -6, 4.0), (12, 18, 1, 6.2), (14, 14, 10, 5.6), (16, 2, 17, 4.2),
                    (19, -12, 20, 3.2), (24, -26, 17, 2.2), (29, -34, 8, 1.5)])  # fmt: skip
HIPPOCAMPUS = np.array([(25, -13, -18, 5.0), (29, -24, -13, 4.2), (29, -36, -3, 3.0)])
VENTRICLES = (
    np.array([(6, 31, 3, 2.0), (7, 22, 10, 4.2), (7, 5, 18, 4.6), (8, -12, 21, 4.2),
              (13, -28, 19, 5.0), (23, -41, 12, 5.5), (27, -60, 7, 2.0)]),
    np.array([(23, -41, 12, 5.5), (31, -36, -2, 3.2), (33, -22, -13, 2.4), (30, -10, -18, 1.5)]),
)  # fmt: skip
# Coherent tracts, darker than other white matter: (x, y, z, radius)
TRACTS = (
    np.array([(24, -22, 3, 3.0), (35, -38, 1, 4.0), (33, -56, 4, 4.0), (22, -76, 5, 3.0)]),
    np.array([(25, -14, 32, 4.0), (22, -12, 16, 3.5), (19.5, -14, 3, 2.6), (13, -18, -12, 3.0),
              (7, -22, -30, 3.5), (4, -34, -54, 2.5)]),
    np.array([(14, 26, 4, 3.0), (19, 8, 8, 2.2), (21, -6, 12, 2.2)]),
    np.array([(0, 30, 10, 4.0), (0, 20, 21, 3.5), (0, -10, 28, 3.5), (0, -34, 22, 4.0),
              (0, -41, 12, 5.0)]),
    np.array([(0, -41, 13, 5.0), (14, -46, 18, 3.5), (24, -66, 18, 3.0)]),
    np.array([(0, 30, 6, 4.0), (12, 36, 6, 3.0), (20, 48, 8, 2.5)]),
)  # fmt: skip
BRAINSTEM = np.array([(0, -16, 0, 12.0), (0, -22, -12, 14.0), (0, -26, -32, 15.0),
                      (0, -36, -50, 10.0), (0, -41, -62, 7.5)])  # fmt: skip


@dataclass
class Canvas:
    """Maps that tissues are painted on, one over the other."""

    frame: Frame
    chi: np.ndarray
    r2star: np.ndarray
    density: np.ndarray
    labels: np.ndarray
    values: dict

    def paint(self, tissue: str, share, box=(slice(None),) * 3, chi=None):
        """Mix a tissue into a box: `share` (0…1) of each voxel; the label where it is most."""
        value, _, _, r2star, density = self.values[tissue]
        targets = ((self.chi, value if chi is None else chi), (self.r2star, r2star),
                   (self.density, density))  # fmt: skip
        for image, target in targets:
            image[box] += share * (np.asarray(target, np.float32) - image[box])
        self.labels[box][share > 0.5] = LABELS[tissue]


def make_head(shape, voxel_size, rng, haemorrhage=False, calcification=False, echo=(0.02, 3.0)):
    """Draw a head.

    Args:
        shape: grid (X, Y, Z), any size; the brain (about 130 × 165 × 130 mm) is centred and shrunk
            where the field of view is too small for it.
        voxel_size: 3 floats [mm].
        rng: numpy Generator; it decides the anatomy, the same on any grid.
        haemorrhage: add one, χ 0.5 to 2 ppm.
        calcification: add one to three, χ −1 to −3 ppm.
        echo: (TE [s], B0 [T]) of the magnitude.

    Returns:
        dict of arrays on the grid: ``chi`` float32 [ppm], mean 0 in the mask and zero outside;
        ``mask`` bool; ``labels`` uint8, see LABELS; ``magnitude`` float32, T2*-weighted, maximum 1,
        zero outside; ``t2star`` float32 [s] at B0, zero outside.

    Raises:
        ValueError: a grid with an axis under 16 voxels, or a voxel size that is not positive.
    """
    check_size("shape", shape, LEAST_SHAPE)
    if len(voxel_size) != 3 or min(voxel_size) <= 0:
        raise ValueError(f"voxel_size {tuple(voxel_size)}: expected three positive lengths in mm")
    frame, box = _place_head(shape, voxel_size, rng)
    points = _warped_points(frame, rng)
    surfaces = _surfaces(frame, points, rng)
    canvas = _blank_canvas(frame, rng)
    _paint_cortex(canvas, surfaces)
    _paint_cerebellum(canvas, points, surfaces, rng)
    _paint_core(canvas, points, surfaces, rng)
    _paint_nuclei(canvas, points, rng)
    _add_texture(canvas, points, rng)
    paint_veins(canvas, points, surfaces, rng)
    _paint_lesions(canvas, points, surfaces, rng, (haemorrhage, calcification))
    return _finished(canvas, surfaces["mask"] < 0, (shape, box), echo, rng)


def _place_head(shape, voxel_size, rng):
    """Head size, tilt and place: the frame on the box that the brain fills, and that box."""
    size = 0.95 * np.clip(rng.normal(1, 0.05, 3), 0.9, 1.1)
    rotation = rotation_matrix(rng.normal(0, (6, 3, 4)))
    shift = rng.uniform(-1, 1, 3)
    matrix = rotation / size[:, None]
    lattice = [np.arange(-r - 20, r + 21, 4.0) for r in (84, 104, 96)]
    coarse = Frame(lattice, matrix, np.array([0.0, -17.0, 6.0]), 4.0)
    inside = np.stack(np.nonzero(_outline(coarse.points()) < 6))
    low, high = inside.min(1), inside.max(1)
    middle = np.array([0.5 * (a[i] + a[j]) for a, i, j in zip(lattice, low, high, strict=True)])
    extent = 4.0 * (high - low)
    view = np.asarray(shape) * np.asarray(voxel_size, float)
    scale = min(1.0, (0.92 * view / extent).min())
    # A head is never quite in the centre; it moves by at most a quarter of the room there is.
    room = shift * np.minimum(0.25 * (0.92 * view - scale * extent), 6)
    axes = [
        ((np.arange(n) - (n - 1) / 2) * v - s) / scale
        for n, v, s in zip(shape, voxel_size, room, strict=True)
    ]
    frame = Frame(
        tuple(axes),
        matrix,
        coarse.origin + matrix @ middle,
        1.15 * float(np.mean(voxel_size)) / scale,
    )
    box = tuple(
        slice(*np.searchsorted(a, (-0.5 * e - 7, 0.5 * e + 7)))
        for a, e in zip(axes, extent, strict=True)
    )
    return frame.crop(box), box


def _outline(points):
    """Signed distance to the unfolded brain."""
    main, temporal, cerebellum, stem = _lobes(points)
    cerebrum = smooth_min(main, temporal, 10)
    return smooth_min(smooth_min(cerebrum, cerebellum, 8), stem, 8)


def _lobes(points):
    """Signed distances to the cerebrum above the skull base, temporal lobes, cerebellum, stem."""
    x, y, z = points
    folded = points.copy()
    # Egg-shaped: widest behind the middle, narrow in front and at the top.
    folded[0] = np.abs(x) * (1 + 0.0013 * (y + 22) + 0.0010 * (z - 10))
    main = ellipsoid(folded, (0, -17, 12), (67, 87, 62), power=2.3)
    base = -(z + 16 - 0.0011 * (y + 10) ** 2 + 0.06 * np.abs(x))
    main = -smooth_min(-main, -base, 16)
    folded[0] = np.abs(x)
    temporal = ellipsoid(folded, (43, -16, -18), (20, 45, 20), rotation_matrix((6, 0, -6)))
    cerebellum = ellipsoid(folded, (15, -64, -38), (37, 32, 23), power=2.3)
    cerebellum = np.maximum(cerebellum, 2.0 - np.minimum(main, temporal))
    return main, temporal, cerebellum, tube(points, BRAINSTEM[:, :3], BRAINSTEM[:, 3])


def _warped_points(frame, rng):
    """Head coordinates bent by smooth random displacements: no two heads, no two sides alike."""
    points = frame.points()
    for i in range(3):
        points[i] += 3.0 * smooth_noise(frame, 26, rng) + 0.9 * smooth_noise(frame, 9, rng)
    return points


def _surfaces(frame, points, rng):
    """Signed distances of the brain's surfaces [mm], negative inside.

    Returns:
        dict: mask, cerebrum (pial, with sulci), thickness of the ribbon, hull depth,
        sulci (distance to the nearest sulcal sheet), cerebellum, stem.
    """
    main, temporal, cerebellum, stem = _lobes(points)
    hull = np.minimum(main, temporal)
    mask = smooth_min(smooth_min(main, temporal, 12), cerebellum, 8)
    mask = smooth_min(mask, stem, 8) - 0.4 + 0.8 * smooth_noise(frame, 6, rng)
    x = np.abs(points[0])
    core = ellipsoid(points, (0, -6, 5), (30, 37, 22))
    fissure = np.sqrt(x * x + np.maximum(-core, 0) ** 2)
    sylvian = np.abs(main - temporal) * 0.5
    sylvian = np.sqrt(sylvian**2 + np.maximum(-hull - 24, 0) ** 2)
    depth = np.minimum(-hull, fissure - 0.5)
    sulci = _sulci(frame, smooth_min(-hull, fissure - 0.5, 24), depth, np.sign(points[0]), rng)
    sulcus = np.minimum(sulci, sylvian - 0.4)
    gap = 0.2 + 0.7 * np.exp(-np.maximum(depth, 0) / 4)  # sulci open towards the surface
    pial = -np.minimum(depth, sulcus - gap)
    thickness = 2.3 + 0.3 * smooth_noise(frame, 8, rng)
    return {"mask": mask, "cerebrum": pial, "thickness": thickness, "depth": depth, "core": core,
            "sulci": sulci, "cerebellum": cerebellum, "stem": stem}  # fmt: skip


def _sulci(frame, outward, depth, side, rng):
    """Distance to the sulcal sheets: zero surfaces of a random field, of limited depth.

    The field is read at the nearest point of the brain's surface, so that its zero surfaces stand
    on that surface as sulci do.

    Args:
        frame: grid; outward: depth that is smooth across edges of the hull [mm]; depth [mm].
        side: −1 in the left hemisphere, 1 in the right.
        rng: numpy Generator.
    """
    normal = np.stack([np.gradient(outward, a, axis=i) for i, a in enumerate(frame.axes)])
    normal /= np.maximum((normal * normal).sum(0), 0.35)
    # A tenth of the depth stays in, and a slow swirl: sheets lean and curve as they go down.
    normal *= np.clip(outward, -2, 24) * (0.9 + 0.12 * smooth_noise(frame, 9, rng))
    nearest = np.stack(np.meshgrid(*frame.axes, indexing="ij")).astype(np.float32) - normal
    nearest[0] += 50 * side  # the two walls of the fissure are close, but fold differently
    wavelength = rng.uniform(21, 26)
    field = ring_noise(wavelength, rng, spread=0.3)(nearest)
    slope = sum(np.gradient(field, a, axis=i) ** 2 for i, a in enumerate(frame.axes))
    # Local wave number, for the distance to the zeros of a wave: atan(k|f|/|∇f|)/k.
    size = [max(1, int(9 / (a[1] - a[0]))) for a in frame.axes]
    power = ndimage.uniform_filter(field * field, size) + np.float32(0.05)
    wave = np.sqrt(ndimage.uniform_filter(slope, size) / power) + np.float32(0.05)
    distance = np.arctan2(wave * np.abs(field), np.sqrt(slope)) / wave
    # Where the hull bends, rays converge: sulci stop before they crowd.
    crowded = np.maximum(wave * np.float32(wavelength / (2 * np.pi)) - 1.65, 0)
    limit = np.clip(18 + 5 * smooth_noise(frame, 9, rng), 3, 26)
    return np.sqrt(distance**2 + np.maximum(depth - limit, 0) ** 2 + (8 * crowded) ** 2)


def _blank_canvas(frame, rng):
    """CSF everywhere, with the χ of this head's tissues."""
    iron = np.exp(rng.normal(0, 0.10))  # iron rises with age in all nuclei together
    values = {}
    for name, (chi, spread, *rest) in TISSUES.items():
        chi = chi * (iron if name in IRON else 1) + spread * np.clip(rng.normal(), -2, 2)
        values[name] = (chi, spread, *rest)
    chi, _, _, r2star, density = values["csf"]
    full = (np.full(frame.shape, v, np.float32) for v in (chi, r2star, density))
    return Canvas(frame, *full, np.full(frame.shape, LABELS["csf"], np.uint8), values)


def _paint_cortex(canvas, surfaces):
    """Grey ribbon on white matter."""
    pial, edge = surfaces["cerebrum"], canvas.frame.edge
    # Iron peaks in the middle of the ribbon.
    layer = np.sin(np.pi * np.clip(-pial / surfaces["thickness"], 0, 1)) - 0.6
    grey = canvas.values["grey_matter"][0] + np.float32(0.014) * layer
    canvas.paint("grey_matter", occupancy(pial, edge), chi=grey)
    canvas.paint("white_matter", occupancy(pial + surfaces["thickness"], edge * 1.3))
    # Myelin is denser in the depth than under the cortex.
    deep = np.clip((-pial - surfaces["thickness"]) / 9, 0, 1)
    canvas.chi += np.float32(DEEP_WHITE) * (deep - 0.5) * (canvas.labels == LABELS["white_matter"])


def _paint_cerebellum(canvas, points, surfaces, rng):
    """Folia around a white tree, and the dentate nuclei as crumpled shells."""
    frame, edge = canvas.frame, canvas.frame.edge
    box = frame.box((-62, -110, -80), (62, -22, 0))
    local, (x, y, z) = frame.crop(box), points[(slice(None), *box)]
    surface = surfaces["cerebellum"][box]
    bowed = y + 46 + 0.007 * x * x  # lamellae curve around the stem
    arc = np.hypot(bowed, z + 32) + 4
    phase = 18 * np.arctan2(z + 32, -bowed)
    phase += 1.8 * smooth_noise(local, 9, rng) + 0.8 * smooth_noise(local, 3.5, rng)
    folia = np.abs(np.sin(phase)) * arc / 18
    folia = np.sqrt(folia**2 + np.maximum(-surface - 11, 0) ** 2)
    pial = -np.minimum(-surface, folia - 0.2)
    canvas.paint("grey_matter", occupancy(pial, edge), box)
    canvas.paint("white_matter", occupancy(pial + 1.0, edge * 2), box)
    for side in (-1, 1):
        centre = np.array([side * 15, -58, -37]) + rng.normal(0, 1, 3)
        box = frame.box(centre - 16, centre + 16)
        local = frame.crop(box)
        tilt = rotation_matrix((15, 0, -side * 20))
        radii = np.array([6.0, 9.5, 6.5]) * rng.normal(1, 0.06, 3)
        shell = ellipsoid(points[(slice(None), *box)], centre, radii, tilt)
        shell = np.abs(shell + 1.5 + 1.9 * smooth_noise(local, 2.4, rng)) - 1.3
        canvas.paint("dentate", occupancy(shell, edge), box, _sided(canvas, "dentate", rng))


def _paint_core(canvas, points, surfaces, rng):
    """Brainstem, callosum and the rest of the core, tracts, ventricles."""
    edge = canvas.frame.edge
    below = surfaces["core"] + 3.0 + np.maximum(-points[2] - 8, 0)
    canvas.paint("white_matter", occupancy(below, edge))
    stem = np.float32(-0.012 + 0.004 * rng.normal())
    canvas.paint("white_matter", occupancy(surfaces["stem"], edge), chi=stem)
    for path in TRACTS:
        dark = canvas.values["white_matter"][0] - rng.uniform(0.008, 0.026)
        for side in (-1, 1):
            _paint_tube(canvas, points, ("white_matter", dark), _jittered(path, side, rng), 3.0)
    swell = np.exp(rng.normal(0, 0.28))
    for path in VENTRICLES:
        for side in (-1, 1):
            horn = _jittered(path, side, rng)
            horn[:, 3] *= swell
            _paint_tube(canvas, points, ("csf", None), horn)
    middle = ((0, -14, 0, 2.0, 12, 9), (0, -43, -31, 5.5, 4.5, 9))
    for *centre, a, b, c in middle:
        radii = np.array([a * swell, b, c])
        box = canvas.frame.box(np.array(centre) - radii - 4, np.array(centre) + radii + 4)
        surface = ellipsoid(points[(slice(None), *box)], centre, radii)
        canvas.paint("csf", occupancy(surface, edge), box)
    aqueduct = np.array([(0, -28, -5, 1.2), (0, -37, -20, 1.2), (0, -42, -28, 2.0)])
    _paint_tube(canvas, points, ("csf", None), aqueduct)


def _paint_nuclei(canvas, points, rng):
    """Deep grey matter, each side with its own size, place and χ; ragged by a fine random field."""
    frame = canvas.frame
    for side in (-1, 1):
        for path, tissue in ((CAUDATE, "caudate"), (HIPPOCAMPUS, "grey_matter")):
            chi = _sided(canvas, tissue, rng)
            _paint_tube(canvas, points, (tissue, chi), _jittered(path, side, rng))
        for tissue, centre, radii, angles in NUCLEI:
            centre = np.array(centre) * (side, 1, 1) + rng.normal(0, 0.7, 3)
            radii = np.array(radii) * np.clip(rng.normal(1, 0.07, 3), 0.85, 1.15)
            turn = (np.array(angles) + rng.normal(0, 4, 3)) * (1, side, side)
            box = frame.box(centre - max(radii) - 4, centre + max(radii) + 4)
            surface = ellipsoid(points[(slice(None), *box)], centre, radii, rotation_matrix(turn))
            surface += (0.5 + 0.06 * min(radii)) * smooth_noise(frame.crop(box), 3.2, rng)
            canvas.paint(tissue, occupancy(surface, frame.edge), box, _sided(canvas, tissue, rng))


def _sided(canvas, tissue, rng):
    """χ of one side's nucleus: a few percent off the head's own."""
    return canvas.values[tissue][0] * np.clip(rng.normal(1, 0.05), 0.85, 1.15)


def _jittered(path, side, rng):
    """A tube's points and radii on one side of the head, slightly changed."""
    moved = path * (side, 1, 1, 1)
    moved[:, :3] += rng.normal(0, 0.7, 3) + rng.normal(0, 0.4, (len(path), 3))
    moved[:, 3] *= np.clip(rng.normal(1, 0.08), 0.8, 1.2)
    return moved


def _paint_tube(canvas, points, tissue, path, blur=0.0):
    """Paint a tissue (name, χ or None) along a path (x, y, z, radius); `blur` softens its edge."""
    reach = path[:, 3].max() + 4 + blur
    box = canvas.frame.box(path[:, :3].min(0) - reach, path[:, :3].max(0) + reach)
    surface = tube(points[(slice(None), *box)], path[:, :3], path[:, 3])
    share = occupancy(surface, canvas.frame.edge + blur)
    if blur:  # a tract changes the white matter it runs through and nothing else
        share = share * (canvas.labels[box] == LABELS["white_matter"])
    canvas.paint(tissue[0], share, box, tissue[1])


def _add_texture(canvas, points, rng):
    """Smooth variation inside the tissues, three scales, and streaks in white matter."""
    frame = canvas.frame
    noise = sum(w * smooth_noise(frame, s, rng) for s, w in ((9, 0.5), (3, 0.6), (1.3, 0.62)))
    spread = np.zeros(256, np.float32)
    for name, value in canvas.values.items():
        spread[LABELS[name]] = value[2]
    noise *= spread[canvas.labels]
    canvas.chi += noise
    canvas.r2star *= 1 + np.clip(4 * noise, -0.2, 0.2)
    canvas.chi += (
        np.float32(0.007) * _fibres(frame, points, rng) * (canvas.labels == LABELS["white_matter"])
    )


def _fibres(frame, points, rng):
    """Streaks of standard deviation 1: a fan from the core to the gyri, and tracts along y."""
    x, y, z = points
    root = np.stack([14 * np.sign(x), np.clip(0.7 * (y + 10), -40, 30) - 10, 0 * z + 10])
    ray = points - root
    ray *= 0.15 + 0.85 * 36 / np.maximum(np.sqrt((ray * ray).sum(0)), 15)
    fan = value_noise(3.5, rng)(root * 0.8 + ray)
    along = value_noise(3.0, rng)(points * np.array((1, 0.18, 1), np.float32)[:, None, None, None])
    share = 1 / (1 + np.exp(-1.5 * smooth_noise(frame, 12, rng)))
    streaks = share * fan + (1 - share) * along
    return streaks / streaks.std()


def _paint_lesions(canvas, points, surfaces, rng, kinds):
    """Haemorrhage and calcifications, somewhere deep enough in the white matter."""
    deep = np.flatnonzero((canvas.labels == LABELS["white_matter"]) & (surfaces["depth"] > 9))
    number = int(rng.integers(1, 4))
    jobs = [("haemorrhage", (0.5, 2.0), (3.5, 9.0))] * bool(kinds[0])
    jobs += [("calcification", (-3.0, -1.0), (1.8, 4.5))] * (number * bool(kinds[1]))
    for tissue, chi, radius in jobs:
        place = deep[int(rng.uniform() * len(deep))]
        centre = points.reshape(3, -1)[:, place].astype(float)
        radii = rng.uniform(*radius) * rng.uniform(0.75, 1.3, 3)
        reach = radii.max() * 1.5 + 4
        box = canvas.frame.box(centre - reach, centre + reach)
        turn = rotation_matrix(rng.uniform(0, 180, 3))
        surface = ellipsoid(points[(slice(None), *box)], centre, radii, turn)
        surface += 0.15 * radii.min() * smooth_noise(canvas.frame.crop(box), radii.min() / 2, rng)
        core = rng.uniform(*chi) * (1 + 0.1 * smooth_noise(canvas.frame.crop(box), 2, rng))
        canvas.paint(tissue, occupancy(surface, canvas.frame.edge), box, core)


def _finished(canvas, mask, grid, echo, rng):
    """Bring the painted box to the grid; reference χ to the mask's mean; weight the magnitude."""
    (shape, box), (te, b0) = grid, echo
    r2star = canvas.r2star * np.float32((b0 / 3.0) ** R2STAR_EXPONENT)
    coil = np.exp(0.16 * smooth_noise(canvas.frame, 45, rng))
    magnitude = canvas.density * np.exp(-np.float32(te) * r2star) * coil
    parts = {
        "chi": canvas.chi - canvas.chi[mask].mean(dtype=float),
        "mask": mask,
        "labels": canvas.labels,
        "magnitude": magnitude / magnitude[mask].max(),
        "t2star": 1 / r2star,
    }
    head = {}
    for name, part in parts.items():
        head[name] = np.zeros(shape, part.dtype if part.dtype != np.float64 else np.float32)
        head[name][box] = part * mask
    return head
