"""Step 3 — paired patches of field, susceptibility and mask, in one HDF5 file.

    python genRDFPatchesSyn.py [configs/demo/step3_genRDFPatchesSyn.py] [key=value ...]

Crops each map to its mask's box, pads it to at least the patch size and cuts patches at a stride.
The file holds `field`, `chi`, `mask` (N, x, y, z), `extra` (N, x, y, z, channels) where `inputs`
asks for more, `sample` (N,) and `corner` (N, 3): one chunk = one patch; and the attributes `inputs`
and `first_sha256`, of firstFile, with those of the files it names. Each map is first finished in a
part file of its own; a killed run goes on where it was, a finished one with maps that are new.
"""

import os
import shutil
from pathlib import Path

import h5py
import numpy as np

from configs import run_step, save_config
from network_model.weight_files import named_hashes
from training_data.channels import FIRST, check_inputs, extra_channels, make_channels
from training_data.nifti import check_same_grid, read_volume
from training_data.origin import made_with
from training_data.patchfile import create_patch_dataset, held_maps, merge_parts
from training_data.samples import (
    FIELD_FILE,
    check_processes,
    for_each_map,
    read_sample,
    sample_folders,
)
from training_data.volume import bounding_box, check_size, crop_pad, patch_corners, window

TAG = "[3 genRDFPatchesSyn]"
DTYPES = ("float32", "float16")


def check_options(config: dict) -> None:
    """Raise a ValueError for an option that no patch could be cut with."""
    check_inputs(config["inputs"])
    check_processes(config["processes"])
    if FIRST in config["inputs"] and not Path(config["firstFile"] or "").is_file():
        raise ValueError(
            f"firstFile {config['firstFile']}: no such weights; the channel {FIRST!r} needs a "
            "network of step 4"
        )
    for key in ("patch_size", "overlap_size"):
        check_size(key, config[key], 1)
    if config["dtype"] not in DTYPES:
        raise ValueError(f"dtype {config['dtype']!r}: expected one of {', '.join(DTYPES)}")
    if config["compression"] not in ("lzf", None):
        raise ValueError(f"compression {config['compression']!r}: expected 'lzf' or None")
    if not 0 <= config["min_brain"] <= 1 or config["patches_per_map"] < 0:
        raise ValueError("expected min_brain from 0 to 1 and patches_per_map of 0 or more")


def sample_arrays(folder: Path, config: dict) -> tuple[dict[str, np.ndarray], int]:
    """Arrays of one map, cropped and padded, and its index.

    Returns:
        field, chi (X, Y, Z) [ppm], mask and, if asked for, extra (X, Y, Z, channels); index.
    """
    sample = read_sample(folder)
    mask = sample.mask
    field = read_volume(folder / FIELD_FILE)
    check_same_grid(sample.chi, field)
    arrays = {"field": field.data * mask, "chi": sample.chi.data * mask, "mask": mask}
    names = extra_channels(config["inputs"])
    if names:
        channels = input_channels(field.data, sample, names, config["firstFile"])
        arrays["extra"] = np.stack([channels[name] for name in names], -1)
    box = bounding_box(mask)
    return {k: crop_pad(x, box, config["patch_size"]) for k, x in arrays.items()}, sample.index


def input_channels(field, sample, names, first_file) -> dict[str, np.ndarray]:
    """Channels of a map by name, (X, Y, Z) [ppm]; one of them may be another network's map."""
    geometry = (sample.mask, sample.voxel_size, sample.b0_dir)
    if FIRST not in names:
        return make_channels(field, *geometry, names)
    import network_model.quiet  # noqa: F401  before Keras, which the other channels do not need

    # isort: split
    from network_model.inference import scan_channels
    from network_model.subject import make_subject

    spec = {"inputs": names, "first": {"path": first_file, "group": "/"}}
    return scan_channels(spec, make_subject(field, *geometry))


def choose_corners(mask, index: int, config: dict) -> np.ndarray:
    """Corners (N, 3) of a map's patches: all that hold enough brain, or a random choice of them."""
    size = config["patch_size"]
    corners = patch_corners(mask.shape, size, config["overlap_size"])
    inside = [mask[window(corner, size)].mean() for corner in corners]
    corners = corners[np.asarray(inside) >= min(config["min_brain"], max(inside))]
    if 0 < config["patches_per_map"] < len(corners):
        rng = np.random.default_rng([config["seed"], index, 3])
        corners = corners[np.sort(rng.permutation(len(corners))[: config["patches_per_map"]])]
    return corners


def write_part(folder: Path, part: Path, config: dict) -> None:
    """Cut one map's patches into a part file, written under a temporary name and renamed."""
    arrays, index = sample_arrays(folder, config)
    corners = choose_corners(arrays["mask"], index, config)
    temporary = part.with_suffix(".tmp")
    with h5py.File(temporary, "w") as file:
        for name, x in arrays.items():
            dtype = "uint8" if name == "mask" else config["dtype"]
            shape = (len(corners), *config["patch_size"], *x.shape[3:])
            data = create_patch_dataset(file, name, shape, dtype, config["compression"])
            for i, corner in enumerate(corners):
                # NumPy rounds: HDF5 halves numbers that it rounds up to a power of two.
                data[i] = x[window(corner, config["patch_size"])].astype(dtype)
        file["corner"] = corners.astype(np.int16)
        file["sample"] = np.repeat(folder.name.encode(), len(corners))
    os.replace(temporary, part)


def main(config: dict) -> None:
    """Run step 3: a part file per map, then one file; go on past a map that fails, exit 1."""
    check_options(config)
    source, target = Path(config["srcFolder"]), Path(config["dstFile"])
    folders = sample_folders(source, FIELD_FILE)
    first = named_hashes("first", config["firstFile"]) if FIRST in config["inputs"] else {}
    used = config | made_with(source) | first
    save_config(used, target.parent, free=("run", "dstFile", "processes"))
    parts_folder = target.parent / f"{target.stem}_parts"
    held = held_maps(target, source)
    parts = {f: parts_folder / f"{f.name}.h5" for f in folders if f.name not in held}
    if not parts:
        shutil.rmtree(parts_folder, ignore_errors=True)  # left by a kill
        print(f"{TAG} {target} is finished", flush=True)
        return

    parts_folder.mkdir(parents=True, exist_ok=True)
    todo = [folder for folder, part in parts.items() if not part.is_file()]

    def work(folder: Path) -> None:
        write_part(folder, parts[folder], config)

    for_each_map(todo, work, TAG, len(folders), config["processes"])
    count = merge_parts(list(parts.values()), target, {"inputs": config["inputs"], **first})
    shutil.rmtree(parts_folder)
    print(f"{TAG} {count} patches of {len(folders)} maps in {target}", flush=True)


if __name__ == "__main__":
    run_step("step3_genRDFPatchesSyn", main)
