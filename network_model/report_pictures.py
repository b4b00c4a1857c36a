"""Pictures of a report: PNG as base64 text, and nilearn's interactive viewer as one HTML page."""

import base64
import io
import re
import warnings

import numpy as np
from matplotlib.figure import Figure
from scipy import ndimage

from network_model.figures import WINDOW, show_plane
from training_data.volume import bounding_box

PLANES = ((2, "axial"), (1, "coronal"), (0, "sagittal"))
VIEWER_VOXELS = 4_000_000  # more are shrunk, or the page would grow beyond 15 MB
OVERLAY_PPM = 0.03  # below, the magnitude shows through
INK, MUTED, ACCENT = "#1a2733", "#8b98a5", "#0b6e99"


def planes_png(subject, columns: dict, windows: dict) -> str:
    """Three planes (rows) through the mask's center of several volumes (columns), in gray.

    Args:
        subject: a `Subject`, for the mask and voxel size.
        columns: title → (X, Y, Z) [ppm].
        windows: title → half-width of the gray scale [ppm].

    Returns:
        PNG as base64 text.
    """
    box = bounding_box(subject.mask)
    mask = subject.mask[box]
    center = [int(np.median(index)) for index in np.nonzero(mask)]
    figure = Figure(figsize=(3.1 * len(columns), 10.2), layout="constrained")
    axes = figure.subplots(3, len(columns), squeeze=False)
    for column, (title, volume) in enumerate(columns.items()):
        axes[0, column].set_title(title, color=INK, fontsize=12)
        shown = np.where(mask, volume[box], 0)
        for row, (axis, plane) in enumerate(PLANES):
            geometry = (center[axis], subject.voxel_size, windows[title])
            picture = show_plane(axes[row, column], shown, axis, *geometry)
            if column == 0:
                axes[row, 0].set_ylabel(plane, color=MUTED)
        figure.colorbar(picture, ax=axes[:, column], location="bottom", shrink=0.8, label="ppm")
    return _base64(figure)


def residual_png(subject, residual, window: float) -> str:
    """Axial planes of a residual field from low to high, gray; PNG as base64 text."""
    box = bounding_box(subject.mask)
    shown = residual[box]
    levels = np.linspace(0.2, 0.8, 5) * shown.shape[2]
    figure = Figure(figsize=(12, 3.1), layout="constrained")
    for ax, level in zip(figure.subplots(1, 5), levels.astype(int), strict=True):
        picture = show_plane(ax, shown, 2, level, subject.voxel_size, window)
        ax.set_title(f"slice {level + box[2].start}", color=MUTED, fontsize=10)
    figure.colorbar(picture, ax=figure.axes, shrink=0.8, label="ppm")
    return _base64(figure)


def histogram_png(curves: dict, window: float, label: str, sigma: float | None = None) -> str:
    """Histograms on one logarithmic axis, and a normal curve of the noise where it is known.

    Args:
        curves: name → 1-D values [ppm]; what lies beyond the window counts in the outermost bins.
        window: half-width of the axis [ppm].
        label: of the axis.
        sigma: standard deviation of the noise [ppm], or None.
    """
    edges = np.linspace(-window, window, 121)
    middle = (edges[1:] + edges[:-1]) / 2
    figure = Figure(figsize=(6, 3.4), layout="constrained")
    ax = figure.subplots()
    colors = (ACCENT, "#d1603d", MUTED)
    for color, (name, values) in zip(colors, curves.items(), strict=False):
        counts, _ = np.histogram(np.clip(values, -window, window), edges, density=True)
        ax.step(middle, counts, where="mid", color=color, label=name, linewidth=1.4)
    if sigma:
        normal = np.exp(-0.5 * (middle / sigma) ** 2) / (sigma * np.sqrt(2 * np.pi))
        ax.plot(middle, normal, "--", color=INK, linewidth=1, label="noise estimate")
    top = ax.get_ylim()[1]
    ax.set_yscale("log")
    ax.set_ylim(top * 1e-5, top * 2)
    ax.set(xlabel=label, ylabel="density [1/ppm]", xlim=(-window, window))
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False, fontsize=9)
    return _base64(figure)


def _base64(figure: Figure) -> str:
    data = io.BytesIO()
    figure.savefig(data, dpi=110, format="png", metadata={"Software": None})
    return base64.b64encode(data.getvalue()).decode()


def viewer_page(subject, chi, over_magnitude: bool) -> str:
    """Interactive viewer of χ: nilearn's `view_img` as one HTML page that loads nothing.

    Args:
        subject: a `Subject`, for mask, voxel size and magnitude.
        chi: (X, Y, Z) [ppm].
        over_magnitude: colored χ that lets the magnitude through; else χ in gray.
    """
    import nibabel as nib
    from nilearn.plotting import view_img

    box = bounding_box(subject.mask)
    # Without a background nilearn takes memory as it finds it; the weight is there in any case.
    volumes = [np.where(subject.mask, chi, 0)[box], subject.weight[box]]
    share = min((VIEWER_VOXELS / volumes[0].size) ** (1 / 3), 1)
    if share < 1:
        volumes = [ndimage.zoom(v, share, order=1) for v in volumes]
    size = np.array([s.stop - s.start for s in box]) * subject.voxel_size / volumes[0].shape
    affine = np.diag([*size, 1.0])
    affine[:3, 3] = -size * np.array(volumes[0].shape) / 2
    images = [nib.Nifti1Image(np.asarray(v, np.float32), affine) for v in volumes]
    gray = {"threshold": None, "cmap": "gray"}
    # nilearn refuses a threshold beyond the largest value.
    threshold = min(OVERLAY_PPM, 0.5 * float(np.abs(volumes[0]).max())) or None
    color = {"threshold": threshold, "cmap": "RdBu_r", "opacity": 0.75}
    with warnings.catch_warnings():
        # nilearn takes percentiles of masked arrays, and interpolates a mask that stands in for a
        # missing magnitude.
        warnings.filterwarnings("ignore", message=".*'partition' will ignore the 'mask'.*")
        warnings.filterwarnings("ignore", message="Resampling binary images")
        view = view_img(
            *images, vmax=WINDOW, symmetric_cmap=True, black_bg=True, dim=0, width_view=900,
            cut_coords=(0, 0, 0), **(color if over_magnitude else gray),
        )  # fmt: skip
    # Its page names an icon on the web; the report loads nothing.
    return re.sub(r"<link\b[^>]*>", "", view.html)
