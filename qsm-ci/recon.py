"""Dipole stage of the QSM-CI platform: one folder in, one folder out.

    python recon.py INPUT OUTPUT

INPUT holds localfield.nii.gz [ppm], mask.nii.gz, params.json (TE [s], B0 [T], B0_dir in voxel axes,
voxel_size [mm]) and, if parameters were changed, config.json; chimap.nii.gz [ppm] goes to OUTPUT.
"""

import json
import sys
from pathlib import Path

import numpy as np

from network_model.reconstruction import Options, reconstruct
from network_model.subject import Scan
from training_data.nifti import read_volume

WEIGHTS = Path(__file__).resolve().with_name("weights.h5")
PARAMETERS = {"refine": True, "finetune": 0, "memory_gb": 8.0}
TUNING = {"learning_rate": 1e-4}  # step 6's
SIZE_TOLERANCE = 0.01  # of voxel sizes: params.json rounds them


def read_json(path: Path) -> dict:
    """Content of a JSON object.

    Raises:
        ValueError: no such file, or not a JSON object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: not readable as JSON ({error})") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected a JSON object, found {type(content).__name__}")
    return content


def read_parameters(path: Path) -> dict:
    """Parameters that the caller may have changed, checked.

    Raises:
        ValueError: unknown parameter, or a value of another kind.
    """
    changed = read_json(path) if path.is_file() else {}
    for name, value in changed.items():
        if name not in PARAMETERS:
            raise ValueError(f"{path}: unknown parameter {name!r}; known: {', '.join(PARAMETERS)}")
        is_switch = isinstance(PARAMETERS[name], bool)
        if isinstance(value, bool) != is_switch or not isinstance(value, (bool, int, float)):
            raise ValueError(f"{path}: {name} {value!r}: expected such as {PARAMETERS[name]!r}")
        if value < 0 or (name == "finetune" and value != int(value)):
            raise ValueError(f"{path}: {name} {value!r}: expected a number of at least 0")
    values = PARAMETERS | changed
    return values | {"finetune": int(values["finetune"])}


def check_voxel_size(params: dict, field: Path) -> None:
    """Say so where params.json and the header differ; the header is what the kernel is made of."""
    told, found = params.get("voxel_size"), read_volume(field).voxel_size
    if told is not None and not np.allclose(told, found, rtol=SIZE_TOLERANCE):
        print(f"warning: voxel_size {told} in params.json, {found} mm in the header; header taken")


def main(source: Path, target: Path) -> None:
    """Reconstruct one scan in the platform's form."""
    params = read_json(source / "params.json")
    field = source / "localfield.nii.gz"
    check_voxel_size(params, field)
    direction = params.get("B0_dir")
    scan = Scan(b0=params.get("B0"), b0_dir=None if direction is None else tuple(direction))
    target.mkdir(parents=True, exist_ok=True)
    files = (field, source / "mask.nii.gz", target / "chimap.nii.gz", WEIGHTS)
    values = read_parameters(source / "config.json")
    options = Options(*map(str, files), scan=scan, tuning=TUNING, **values)
    reconstruct(options, lambda line: print(line))


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("error: expected two arguments, INPUT and OUTPUT folder")
    try:
        main(Path(sys.argv[1]), Path(sys.argv[2]))
    except (ValueError, TypeError, OSError) as problem:
        sys.exit(f"error: {' '.join(str(problem).split())}")
