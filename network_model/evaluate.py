"""Step 7 — scores against a reference, beside classical inversions of the same field.

    python network_model/evaluate.py [file of changed keys] [key=value ...]
    python network_model/evaluate.py chi.nii.gz --truth truth.nii.gz --mask mask.nii.gz \\
        [--labels dseg.nii.gz] [--field field.nii.gz --compare tkd,l2,ndi,tv] [-o folder]

The first form scores step 5's maps: the plain network's and the fine-tuned one. Both print a table
with a row per method; scores.csv, the classical maps and a picture go to a folder.
"""

import json
import sys
from pathlib import Path

import numpy as np

from configs import Parser, die, run_step, save_config, write_text
from network_model.figures import comparison_figure
from network_model.metrics import csv_text, score, table
from network_model.subject import UNITS, Scan, load_subject
from training_data.inversion import CLASSICAL, invert
from training_data.nifti import SUFFIXES, check_same_grid, read_mask, read_volume, to_canonical

TAG = "[7 evaluate]"


def main(config: dict) -> None:
    """Score the maps of step 5 and classical inversions of the field they were made from."""
    source, folder = Path(config["srcFolder"]), Path(config["dstFolder"])
    scan = step5_scan(source) if config["fieldFile"] is None else config
    files = {"network": source / "chi_round00.nii.gz", "finetuned": source / "chi.nii.gz"}
    missing = [str(f) for f in files.values() if not f.is_file()]
    if missing:
        raise ValueError(f"{missing[0]}: no such file; run step 5 first, or set srcFolder")
    evaluate(files, scan, config["truthFile"], config["labelsFile"], config["compare"], folder)
    save_config(config, folder, free=tuple(config))
    print(f"{TAG} scores.csv and comparison.png in {folder}", flush=True)


def step5_scan(folder: Path) -> dict:
    """Files, unit, B0, ... of the scan that step 5 worked on, from the config it left behind."""
    path = folder / "config.json"
    if not path.is_file():
        raise ValueError(f"{path}: no such file; run step 5 first, or set fieldFile and maskFile")
    return json.loads(path.read_text())


def evaluate(files: dict, scan: dict, truth_file, labels_file, compare, folder=None) -> list[dict]:
    """Score maps and classical inversions of one scan.

    Args:
        files: name → NIfTI of a map [ppm] on the reference's grid.
        scan: fieldFile (None where nothing is compared), maskFile, magnitudeFile and the keys of
            `Scan`.
        truth_file: reference χ, NIfTI [ppm]; labels_file: its label map, or None.
        compare: names out of `CLASSICAL`, scored first.
        folder: where scores.csv, comparison.png and the classical maps go; None: nowhere.

    Returns:
        a dict per method: its name and its scores.

    Raises:
        ValueError: a file that is missing, unreadable or on another grid; an unknown inversion.
    """
    if not truth_file or not scan.get("maskFile"):
        raise ValueError("a reference (truthFile) and a mask (maskFile) are needed to score")
    truth = read_volume(truth_file)

    def read(path):
        """Data of a file on the reference's grid, axes in canonical order."""
        volume = read_volume(path)
        check_same_grid(truth, volume)
        return to_canonical(volume).data

    mask = to_canonical(read_mask(scan["maskFile"], like=truth)[1]).data != 0
    labels = read(labels_file) if labels_file else None
    ours = {name: read(path) for name, path in files.items()}
    maps = classical_maps(scan, compare, truth, folder) | ours
    canonical = to_canonical(truth)
    rows = [
        {"method": name} | score(chi, canonical.data, mask, labels) for name, chi in maps.items()
    ]
    print("\n".join(table(rows)), flush=True)
    if folder is not None:
        write_text(Path(folder) / "scores.csv", csv_text(rows))
        picture = Path(folder) / "comparison.png"
        comparison_figure(picture, canonical.data, maps, mask, canonical.voxel_size)
    return rows


def classical_maps(scan: dict, compare, truth, folder=None) -> dict[str, np.ndarray]:
    """Name → χ of the scan's field by each classical inversion, on working axes."""
    unknown = [name for name in compare if name not in CLASSICAL]
    if unknown:
        raise ValueError(f"compare {unknown[0]!r}: expected a choice of {', '.join(CLASSICAL)}")
    if not compare:
        return {}
    if not scan.get("fieldFile"):
        raise ValueError("a field is needed to compare with classical inversions (--field)")
    subject = load_subject(
        scan["fieldFile"], scan["maskFile"], scan.get("magnitudeFile"), Scan.from_config(scan)
    )
    check_same_grid(truth, subject.grid)
    maps = {}
    for name in compare:
        geometry = (subject.field, subject.mask, subject.voxel_size, subject.b0_dir)
        maps[name] = invert(name, *geometry, magnitude=subject.magnitude)
        if folder is not None:
            subject.save(Path(folder) / f"{name}.nii.gz", maps[name])
    return maps


def command_line(argv: list[str]) -> None:
    """The second form: one map, its reference and whatever else is at hand."""
    parser = Parser(tag=TAG, prog="evaluate.py", description="Score a χ map [ppm].")
    parser.add_argument("chi", help="map to score, NIfTI")
    for name in ("truth", "mask"):
        parser.add_argument(f"--{name}", required=True, help="NIfTI on the map's grid")
    for name in ("labels", "field", "magnitude"):
        parser.add_argument(f"--{name}", help="NIfTI on the map's grid")
    parser.add_argument("--compare", help=f"some of {','.join(CLASSICAL)}; needs --field")
    parser.add_argument("--unit", default="ppm", choices=UNITS, help="of the field")
    parser.add_argument("--b0", type=float, help="field strength [T], for Hz and rad")
    parser.add_argument("--te", type=float, help="echo time [s], for rad")
    parser.add_argument("--sign", type=int, default=1, choices=(1, -1), help="of the field")
    parser.add_argument("--echo", type=int, help="of a 4-D magnitude, from 0")
    parser.add_argument("--b0-dir", type=float, nargs=3, help="B0 in voxel axes; else the affine's")
    parser.add_argument("-o", "--out", help="folder for scores.csv, comparison.png and maps")
    args = vars(parser.parse_args(argv))
    scan = args | {f"{name}File": args[name] for name in ("field", "mask", "magnitude")}
    compare = args["compare"].split(",") if args["compare"] else []
    try:
        evaluate({"chi": args["chi"]}, scan, args["truth"], args["labels"], compare, args["out"])
    except (ValueError, OSError) as error:
        die(f"{TAG} {error}")


if __name__ == "__main__":
    # Of the two forms only the second has options or takes a volume.
    if any(a.startswith("-") or (a.endswith(SUFFIXES) and "=" not in a) for a in sys.argv[1:]):
        command_line(sys.argv[1:])
    else:
        run_step("step7_evaluate", main)
