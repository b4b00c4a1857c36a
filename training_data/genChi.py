"""Step 1 — synthetic susceptibility maps from one χ map, by elastic transform, contrast, sources.

    python training_data/genChi.py [configs/demo/step1_genChi.py] [key=value ...]

Writes `map_0000/` with `suscp.nii.gz` [ppm], `Mask.nii.gz` and `sample.json` (what was drawn) for
every map, on the axes of the map turned closest to right, anterior, superior; and, where
`fineChance` asks for it, `suscp_fine.nii` on half the voxel edge. The content of a map depends on
(seed, index) only; finished maps are skipped, so the same command resumes after a kill, and a
larger `number` adds maps to a folder.
"""

import json
import os
import shutil
from pathlib import Path

from configs import run_step, save_config
from training_data.nifti import write_volume
from training_data.origin import FREE, file_hashes
from training_data.samples import (
    CHI_FILE,
    FINE_FILE,
    MASK_FILE,
    SAMPLE_FILE,
    check_processes,
    for_each_map,
)
from training_data.synthesis import check_options, make_sample, read_source

TAG = "[1 genChi]"


def finished(folder: Path) -> bool:
    """Whether a map's folder holds all that this step writes."""
    if not all((folder / name).is_file() for name in (CHI_FILE, MASK_FILE, SAMPLE_FILE)):
        return False
    drawn_fine = "sampling" in json.loads((folder / SAMPLE_FILE).read_text())
    return not drawn_fine or (folder / FINE_FILE).is_file()


def write_sample(folder: Path, sample) -> None:
    """Write a map under a temporary folder name and rename it, so that it is whole or absent."""
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)  # left by a kill
    temporary.mkdir(parents=True)
    write_volume(temporary / CHI_FILE, sample.chi.data, like=sample.chi)
    write_volume(temporary / MASK_FILE, sample.mask, like=sample.chi)
    if sample.fine is not None:
        write_volume(temporary / FINE_FILE, sample.fine.data, like=sample.fine)
    text = json.dumps(sample.record, indent=1, sort_keys=True)
    (temporary / SAMPLE_FILE).write_text(text + "\n")
    if folder.exists():  # a file of it was lost: put the same content back, keep the others
        for file in sorted(temporary.iterdir()):
            os.replace(file, folder / file.name)
        temporary.rmdir()
    else:
        os.rename(temporary, folder)


def main(config: dict) -> None:
    """Run step 1; go on past a map that fails, name it, exit 1."""
    check_options(config)
    check_processes(config["processes"])
    source = read_source(config)
    target = Path(config["dstFolder"])
    used = file_hashes(chi=config["chiFile"], mask=config["maskFile"]) if source else {}
    save_config(config | used, target, free=FREE["step1"])

    indices = range(config["first"], config["first"] + config["number"])
    folders = {target / f"map_{i:04d}": i for i in indices}
    todo = [folder for folder in folders if not finished(folder)]
    print(f"{TAG} {len(folders)} maps, {len(folders) - len(todo)} finished before", flush=True)

    def work(folder: Path) -> None:
        write_sample(folder, make_sample(config, source, folders[folder]))

    for_each_map(todo, work, TAG, len(folders), config["processes"])
    print(f"{TAG} maps in {target}", flush=True)


if __name__ == "__main__":
    run_step("step1_genChi", main)
