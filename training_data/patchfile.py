"""The HDF5 file of patches: one chunk = one patch, so that training reads any of them at once."""

import contextlib
import os
from pathlib import Path

import h5py
import numpy as np


def create_patch_dataset(file, name: str, shape, dtype, compression="lzf") -> h5py.Dataset:
    """Data set of patches, a chunk each, without time stamps.

    Args:
        file: open HDF5 file; name: of the data set.
        shape: (N, x, y, z[, channels]); dtype: of its values.
        compression: "lzf", or None: twice the file, read at the speed of memory.
    """
    return file.create_dataset(
        name, shape, dtype, chunks=(1, *shape[1:]), compression=compression,
        shuffle=compression is not None,
    )  # fmt: skip


@contextlib.contextmanager
def reading(path):
    """Raise a ValueError where a patch file cannot be read, or lacks what is looked for in it."""
    try:
        yield
    except (OSError, KeyError) as error:
        raise ValueError(
            f"{path}: not a patch file of step 3 ({error}); delete it and run step 3 again"
        ) from error


def held_maps(target: Path, source: Path) -> set[str]:
    """Names of the maps whose patches a finished file holds; none where there is no file.

    Raises:
        ValueError: the file is none of patches, or holds a map that is not in `source`.
    """
    if not target.is_file():
        return set()
    with reading(target), h5py.File(target) as file:
        names = {name.decode() for name in file["sample"][:]}
    if lost := sorted(name for name in names if not (source / name).is_dir()):
        raise ValueError(
            f"{target}: holds {lost[0]}, which is not in {source}; choose another folder (run=NAME)"
        )
    return names


def merge_parts(parts: list[Path], target: Path, attributes: dict) -> int:
    """Join patch files into one, chunk by compressed chunk, written under a temporary name.

    Args:
        parts: files of patches of each array, with `corner` (N, 3) and `sample` (N,), their map.
        target: file to write; what it holds already stays, before the parts.
        attributes: of the file: `inputs`, the channels of the network, and what else is to be kept.

    Returns:
        number of patches.
    """
    temporary = target.with_name(f".{target.name}.tmp")
    if target.is_file():
        parts = [target, *parts]
    corners, samples = [], []
    for part in parts:
        with h5py.File(part) as file:
            corners.append(file["corner"][:])
            samples.append(file["sample"][:])
            layout = {
                k: (d.shape[1:], d.dtype, d.compression)
                for k, d in file.items() if k not in ("corner", "sample")
            }  # fmt: skip
    counts = [len(c) for c in corners]
    with h5py.File(temporary, "w") as out:
        for name, (shape, *kind) in layout.items():
            data, at = create_patch_dataset(out, name, (sum(counts), *shape), *kind), 0
            for part, count in zip(parts, counts, strict=True):
                with h5py.File(part) as file:
                    for i in range(file[name].id.get_num_chunks()):
                        offset = file[name].id.get_chunk_info(i).chunk_offset
                        filters, chunk = file[name].id.read_direct_chunk(offset)
                        data.id.write_direct_chunk((at + offset[0], *offset[1:]), chunk, filters)
                at += count
        out["corner"] = np.concatenate(corners)
        out["sample"] = np.concatenate(samples)
        out.attrs.update(attributes)
    os.replace(temporary, target)
    return sum(counts)
