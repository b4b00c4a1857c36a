"""The folder of one synthetic map: what step 1 writes and steps 2 and 3 read."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from training_data.nifti import Volume, b0_direction, read_mask, read_volume

CHI_FILE, MASK_FILE, SAMPLE_FILE, FIELD_FILE = (
    "suscp.nii.gz",
    "Mask.nii.gz",
    "sample.json",
    "fmap_suscp.nii.gz",
)


@dataclass(frozen=True)
class Sample:
    """One synthetic map.

    Attributes:
        chi: susceptibility [ppm] and its grid.
        mask: (X, Y, Z) bool.
        b0_dir: direction of B0 in voxel axes.
        index: number of the map in its run.
    """

    chi: Volume
    mask: np.ndarray
    b0_dir: tuple[float, float, float]
    index: int


def sample_folders(source: Path, name: str = CHI_FILE) -> list[Path]:
    """Folders `map_*` below `source` that hold a file `name`, sorted.

    Raises:
        ValueError: there is none.
    """
    folders = sorted(p.parent for p in source.glob(f"map_*/{name}"))
    if not folders:
        step = 1 if name == CHI_FILE else 2
        raise ValueError(f"{source}: no map_*/{name} here; run step {step} first, or set srcFolder")
    return folders


def read_sample(folder: Path) -> Sample:
    """Read a map of step 1. Raises a ValueError that names the file for anything unreadable."""
    chi = read_volume(folder / CHI_FILE)
    mask, _ = read_mask(folder / MASK_FILE, like=chi)
    try:
        notes = json.loads((folder / SAMPLE_FILE).read_text())
        index = int(notes["index"])
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(
            f"{folder / SAMPLE_FILE}: not readable ({error}); run step 1 again"
        ) from error
    b0_dir = tuple(notes.get("b0_dir") or b0_direction(chi.affine))
    return Sample(chi, mask, b0_dir, index)
