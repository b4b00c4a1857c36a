"""Pictures of χ maps: three planes per map, with and without the error against a reference."""

import os
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from training_data.volume import bounding_box

WINDOW = 0.1  # ± [ppm]: the usual grey window of brain χ


def comparison_figure(
    path, truth, maps, mask, voxel_size=(1, 1, 1), window: float = WINDOW
) -> None:
    """One PNG: a column per map, three planes of it and of its error, all on one grey scale.

    Args:
        path: of the PNG; written under a temporary name and renamed.
        truth: reference (X, Y, Z) [ppm], axes right, anterior, superior.
        maps: name → map (X, Y, Z) [ppm]; names become the columns' titles.
        mask: (X, Y, Z), non-zero inside; the planes go through its center.
        voxel_size: 3 floats [mm], for the planes' proportions.
        window: grey scale from −window to +window [ppm].
    """
    box = bounding_box(mask)
    mask, truth = mask[box] != 0, truth[box]
    center = [int(np.median(index)) for index in np.nonzero(mask)]
    columns = {"truth": truth} | {name: chi[box] for name, chi in maps.items()}
    figure = Figure(figsize=(2.1 * len(columns) + 0.9, 13.5), layout="constrained")
    axes = figure.subplots(6, len(columns), squeeze=False)
    for column, (name, volume) in enumerate(columns.items()):
        axes[0, column].set_title(name)
        for axis, plane in ((2, 0), (1, 1), (0, 2)):
            shown = {2 * plane: volume * mask, 2 * plane + 1: (volume - truth) * mask}
            for row, x in shown.items():
                picture = show_plane(axes[row, column], x, axis, center[axis], voxel_size, window)
    for plane, name in enumerate(("axial", "coronal", "sagittal")):
        axes[2 * plane, 0].set_ylabel(name)
        axes[2 * plane + 1, 0].set_ylabel("error")
    figure.colorbar(picture, ax=axes, shrink=0.3, label="χ [ppm]")
    save_figure(figure, path)


def show_plane(ax, volume, axis: int, index: int, voxel_size, window: float):
    """Draw one plane of a volume (right, anterior, superior), its last axis upwards; the image."""
    height, width = np.delete(np.asarray(voxel_size, float), axis)[::-1]
    picture = ax.imshow(
        np.take(volume, index, axis).T,
        cmap="gray",
        vmin=-window,
        vmax=window,
        origin="lower",
        aspect=height / width,
        interpolation="nearest",
    )
    ax.set_xticks([])
    ax.set_yticks([])
    return picture


def save_figure(figure: Figure, path, dpi: int = 100) -> None:
    """Write a figure as PNG under a temporary name and rename it."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp.png")
    figure.savefig(temporary, dpi=dpi)
    os.replace(temporary, path)


def bar_figure(path, rows: list[dict], methods, metrics) -> None:
    """One PNG: a panel per metric, a group of bars per case, a bar per method.

    Args:
        path: of the PNG.
        rows: a dict per case and method with keys "case", "method" and the metrics.
        methods: names, in the order of the bars; metrics: names, a panel each.
    """
    cases = list(dict.fromkeys(row["case"] for row in rows))
    values = {(row["case"], row["method"]): row for row in rows}
    size = (max(6, 1 + 0.85 * len(cases)), 3.4 * len(metrics))
    figure = Figure(figsize=size, layout="constrained")
    width = 0.85 / len(methods)
    for ax, metric in zip(figure.subplots(len(metrics), squeeze=False)[:, 0], metrics, strict=True):
        for i, method in enumerate(methods):
            heights = [values.get((case, method), {}).get(metric, np.nan) for case in cases]
            ax.bar(np.arange(len(cases)) + (i - len(methods) / 2 + 0.5) * width, heights, width,
                   label=method)  # fmt: skip
        if metric == "nrmse":
            ax.set_ylim(0, 110)
        ax.set_xticks(range(len(cases)), cases, rotation=35, ha="right", fontsize=8)
        ax.set_ylabel(f"{metric} [%]" if metric == "nrmse" else metric)
        ax.grid(axis="y", alpha=0.3)
    ax.legend(ncols=len(methods), fontsize=8)
    save_figure(figure, path)
