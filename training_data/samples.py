"""The folder of one synthetic map: what step 1 writes and steps 2 and 3 read."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from joblib import Parallel, delayed, parallel_config
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from training_data.backend import cores
from training_data.nifti import Volume, b0_direction, read_mask, read_volume
from training_data.origin import CONFIGS

CHI_FILE, MASK_FILE, SAMPLE_FILE = "suscp.nii.gz", "Mask.nii.gz", "sample.json"
FIELD_FILE = "fmap_suscp.nii.gz"
FINE_FILE = "suscp_fine.nii"


@dataclass(frozen=True)
class Sample:
    """One synthetic map.

    Attributes:
        chi: susceptibility [ppm] and its grid.
        mask: (X, Y, Z) bool.
        voxel_size: 3 floats [mm], as the field is or will be made with.
        b0_dir: direction of B0 in voxel axes, likewise.
        index: number of the map in its run.
        sampling: what a voxel shows of χ on half its edge (`finescan.SAMPLINGS`), and that χ lies
            beside the map; None: the map was drawn on its own grid.
    """

    chi: Volume
    mask: np.ndarray
    voxel_size: tuple[float, float, float]
    b0_dir: tuple[float, float, float]
    index: int
    sampling: str | None = None


def sample_folders(source: Path, name: str = CHI_FILE) -> list[Path]:
    """Folders `map_*` below `source` that hold a file `name`, sorted.

    Raises:
        ValueError: there is none, or a map of step 1 lacks it.
    """
    folders = sorted(p.parent for p in source.glob(f"map_*/{name}"))
    if not folders:
        step = 1 if name == CHI_FILE else 2
        raise ValueError(f"{source}: no map_*/{name} here; run step {step} first, or set srcFolder")
    left = sorted({p.parent for p in source.glob(f"map_*/{CHI_FILE}")} - set(folders))
    if left:
        raise ValueError(f"{left[0]}: no {name}, as in {len(left)} maps in all; run step 2 again")
    return folders


def read_sample(folder: Path) -> Sample:
    """Read a map of step 1, with the voxel size and the direction of B0 that step 2 may override.

    Raises:
        ValueError: anything unreadable; the message names the file.
    """
    chi = read_volume(folder / CHI_FILE)
    mask, _ = read_mask(folder / MASK_FILE, like=chi)
    try:
        notes = json.loads((folder / SAMPLE_FILE).read_text())
        index = int(notes["index"])
        fields = folder.parent / CONFIGS["step2"]
        override = json.loads(fields.read_text()) if fields.is_file() else {}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{folder / SAMPLE_FILE}: not readable ({error}); run step 1 again"
        ) from error
    voxel_size = tuple(override.get("voxel_size") or chi.voxel_size)
    b0_dir = tuple(override.get("b0_dir") or notes.get("b0_dir") or b0_direction(chi.affine))
    return Sample(chi, mask, voxel_size, b0_dir, index, notes.get("sampling"))


def read_fine(folder: Path, sample: Sample) -> np.ndarray:
    """χ of a map on half the voxel edge, (2X, 2Y, 2Z) float32 [ppm].

    Raises:
        ValueError: the file is missing, unreadable or not on twice the grid of the map.
    """
    fine = read_volume(folder / FINE_FILE).data
    if fine.shape != tuple(2 * n for n in sample.mask.shape):
        raise ValueError(
            f"{folder / FINE_FILE}: {fine.shape} voxels, expected twice those of "
            f"{CHI_FILE}, {sample.mask.shape}; run step 1 again"
        )
    return fine


def check_processes(number: int) -> None:
    """Raise a ValueError for a number of processes that no map could be made by."""
    if number < 1:
        raise ValueError(f"processes {number}: expected a whole number of at least 1")


def for_each_map(folders: list[Path], work, tag: str, total: int, processes: int = 1) -> None:
    """Do `work(folder)` for every map with a progress bar; go on past one that fails.

    Args:
        folders: of the maps that are not finished; work: takes one of them.
        tag: of the script's log lines; total: number of maps of the run, for the message.
        processes: that work side by side and share the cores, one or more; what a map becomes does
            not depend on them.

    Raises:
        ValueError: at the end, naming the maps that failed.
    """
    threads = max(cores() // processes, 1)
    with parallel_config("loky", n_jobs=processes, inner_max_num_threads=threads):
        done = Parallel(return_as="generator_unordered")(
            delayed(_attempt)(work, folder) for folder in folders
        )
        failed = []
        for folder, error in tqdm(done, desc=tag, unit="map", total=len(folders)):
            if error:
                failed.append(folder.name)
                tqdm.write(f"{tag} {folder}: {error}")
    if failed:
        failed.sort()
        raise ValueError(f"{len(failed)} of {total} maps failed: {', '.join(failed)}")


def _attempt(work, folder: Path) -> tuple[Path, str]:
    """The folder, and what kind of bad input ended the work on it: a line, or nothing."""
    try:
        with threadpool_limits(1, "blas"):  # last bits of its products depend on the threads
            work(folder)
    except (ValueError, OSError) as error:
        return folder, str(error) or type(error).__name__
    except (MemoryError, RuntimeError) as error:  # PyTorch raises one of the latter
        if isinstance(error, RuntimeError) and "out of memory" not in str(error):
            raise
        return folder, f"out of memory; fewer processes need less ({error})".replace("\n", " ")
    return folder, ""
