"""Step 6 — a trained network on any scan: χ map, JSON sidecar and report.

    python network_model/reconstruct.py field.nii.gz mask.nii.gz -o chi.nii.gz
    python network_model/reconstruct.py field.nii.gz mask.nii.gz -o chi.nii.gz --unit Hz --b0 7 \\
        --magnitude mag.nii.gz --finetune 200 --report report.html
    python network_model/reconstruct.py --bids STUDY --out STUDY/derivatives/qsminvnet

The map is in ppm on the grid and affine of the field. The direction of B0 is --b0-dir, else
`B0_dir` of the field's JSON sidecar, else scanner z of the affine. Defaults of the numbers are in
configs/step6_reconstruct.py; --config takes a file of changed keys.
"""

import argparse
import os
import re
import sys

from configs import Parser, die, load_config, open_streams
from network_model.reconstruction import Options, reconstruct
from network_model.subject import UNITS, Scan

TAG = "[6 reconstruct]"
PATTERNS = ("field", "mask", "magnitude", "labels")
PATHS = ("field", "mask", "output", "config", "weightsFile", "magnitude", "reference", "report")
PATHS += ("labels", "bids", "out")
TUNING_KEYS = ("data_weight", "tv_weight", "learning_rate", "decay_every", "trainable")


def gigabytes(text: str) -> float:
    """Memory size such as "8G", "7.5GB", "8000M" or "8" [GiB]."""
    match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*([GM]?)(i?B)?\s*", text, re.IGNORECASE)
    if not match or not float(match[1]):
        raise argparse.ArgumentTypeError(f"{text!r}: expected a size such as 8G or 8000M")
    return float(match[1]) / (1024 if match[2].upper() == "M" else 1)


def parser() -> argparse.ArgumentParser:
    """The command line; an option that is not given is None and taken from the config."""
    p = Parser(tag=TAG, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("field", nargs="?", help="local field, NIfTI")
    p.add_argument("mask", nargs="?", help="brain mask on the same grid")
    p.add_argument("-o", "--output", help="susceptibility map to write, .nii or .nii.gz")
    p.add_argument("--config", help="file of changed keys of configs/step6_reconstruct.py")
    p.add_argument("--weights", dest="weightsFile", help="network; default: the one shipped")
    p.add_argument("--unit", help=f"unit of the field: {', '.join(UNITS)}")
    p.add_argument("--b0", type=float, help="field strength [T]")
    p.add_argument("--te", type=float, help="echo time [s]")
    p.add_argument("--sign", type=int, help="1, or -1 for a field of the opposite convention")
    p.add_argument("--magnitude", help="magnitude, 3-D, or 4-D with echoes last")
    p.add_argument("--echo", type=int, help="echo of a 4-D magnitude, from 0")
    p.add_argument("--b0-dir", type=float, nargs=3, help="direction of B0 in voxel axes")
    p.add_argument("--memory", dest="memory_gb", type=gigabytes, help="such as 8G: tiles beyond")
    p.add_argument("--align", help="resample for the network: auto, on, off, both")
    p.add_argument("--finetune", type=int, help="iterations on the (first) network's weights")
    p.add_argument("--mend", action=argparse.BooleanOptionalAction, help="leave bad field out")
    p.add_argument("--refine", action=argparse.BooleanOptionalAction, help="refine the map")
    p.add_argument("--reference", help="subtract the mean of: none, brain, or a mask file")
    p.add_argument("--report", help="HTML report to write")
    p.add_argument("--labels", help="regions for the report's table, NIfTI")
    p.add_argument("--bids", help="reconstruct every scan of this BIDS folder")
    p.add_argument("--out", help="derivatives folder of --bids")
    p.add_argument("--workers", type=int, help="processes for --bids, 1 by default")
    p.add_argument("--scheduler", help="address of a Dask scheduler for --bids")
    return p


def make_options(args: argparse.Namespace, config: dict) -> Options:
    """Options of one reconstruction from the command line and the config.

    Raises:
        ValueError: a number out of its range.
    """
    if config["finetune"] < 0:
        raise ValueError(f"finetune {config['finetune']}: expected a whole number of at least 0")
    keys = ("memory_gb", "align", "align_voxel_mm", "reference", "finetune", "mend", "refine")
    keys += ("mirrors",)
    return Options(
        args.field, args.mask, args.output, config["weightsFile"], args.magnitude,
        Scan.from_config(config), tuning={k: config[k] for k in TUNING_KEYS},
        refine_options=config["refine_options"], report=args.report, labels_file=args.labels,
        seed=config["seed"], **{k: config[k] for k in keys},
    )  # fmt: skip


def _check_form(args: argparse.Namespace) -> None:
    """Raise a ValueError for arguments that are missing, or of the other of the two forms."""
    study = args.bids is not None
    needed = ("out",) if study else ("field", "mask", "output")
    others = {"out": "", "workers": "", "scheduler": ""}
    if study:
        others = {name: f"; {name}Patterns of --config find it" for name in PATTERNS}
        others |= {"output": "; --out takes the folder of the maps"}
    forms = "FIELD MASK -o OUTPUT, or --bids FOLDER --out FOLDER"
    for name in needed:
        if not getattr(args, name):
            raise ValueError(f"{name} is missing: {forms}")
    for name, remedy in others.items():
        if getattr(args, name) is not None:
            where = "has no meaning with" if study else "is for"
            raise ValueError(f"{name} {where} --bids{remedy or f': {forms}'}")
    if args.labels and not args.report:
        raise ValueError(f"labels {args.labels}: are for a table in the report; add --report FILE")


def _log(line: str) -> None:
    print(f"{TAG} {line}", flush=True)


def main(argv: list[str]) -> None:
    """Run step 6 on one scan or on a cohort."""
    args = parser().parse_args(argv)
    for name in PATHS:
        if getattr(args, name):  # "--out=~/maps": shells leave that to the program
            setattr(args, name, os.path.expanduser(getattr(args, name)))
    config = load_config("step6_reconstruct", [args.config] if args.config else [])
    config |= {k: v for k, v in vars(args).items() if k in config and v is not None}
    _check_form(args)
    if args.bids:
        from network_model.cohort import run_cohort

        patterns = {kind: config[f"{kind}Patterns"] for kind in PATTERNS}
        scans = (args.bids, args.out, make_options(args, config), patterns)
        workers = 1 if args.workers is None else args.workers
        run_cohort(*scans, workers=workers, scheduler=args.scheduler)
        return
    result = reconstruct(make_options(args, config), _log, f"{TAG} fine-tuning")
    for name, path in result.files.items():
        _log(f"{name}: {path}")


def command(argv: list[str]) -> None:
    """`main` with every problem of the input as one line and exit status 1."""
    open_streams()
    try:
        main(argv)
    except (ValueError, OSError, ImportError) as problem:
        die(f"{TAG} {problem}")
    except MemoryError:
        die(f"{TAG} out of memory; allow less with --memory")
    except KeyboardInterrupt:
        study = "--bids" in " ".join(argv)
        kept = "what is finished is kept; the same command goes on" if study else "nothing written"
        die(f"{TAG} stopped; {kept}")


if __name__ == "__main__":
    command(sys.argv[1:])
