"""Seconds and memory of the whole command `reconstruct.py`, on scans of the score card.

    python benchmarks/times.py [--cases measured2016 head1001 ...] [--repeats 1] [-- --align both]

Each scan is written as NIfTI below runs/times and inverted by the command as a user runs it, in a
process of its own: imports, reading and writing included. Run it on an idle machine. Options after
`--` go to `reconstruct.py`. The table, with the scores of each map, goes to docs/times.csv.
"""

import argparse
import subprocess
import sys
from pathlib import Path

import numpy as np

from configs import PROJECT_ROOT, die, load_config, write_text
from network_model.cases import Case, all_cases
from network_model.metrics import csv_text, score, table
from training_data.nifti import read_volume, write_volume

SCRIPT = PROJECT_ROOT / "network_model" / "reconstruct.py"
CASES = (
    "measured2016",
    "head1001",
    "head1000_background",
    "head1000_rim",
    "head1000_garbage",
    "head1000_voids",
    "head1000_errors",
    "head1000_112mm",
    "fansi",
    "fansi_errors",
)


def write_case(case: Case, folder: Path) -> list[str]:
    """Write a case as NIfTI; returns the arguments of `reconstruct.py` that describe it."""
    subject = case.subject
    affine = np.diag([*subject.voxel_size, 1.0])
    parts = {"field": subject.field, "mask": subject.mask, "magnitude": subject.magnitude}
    for name, data in parts.items():
        if data is not None:
            write_volume(folder / f"{name}.nii.gz", data, affine=affine)
    arguments = [str(folder / "field.nii.gz"), str(folder / "mask.nii.gz"), "--b0-dir"]
    arguments += [f"{x:.6f}" for x in subject.b0_dir]
    if subject.has_magnitude:
        arguments += ["--magnitude", str(folder / "magnitude.nii.gz")]
    return arguments


# A process begins with the highest memory of the one that started it: a small one has to.
TIMED = """
import resource, subprocess, sys, time
start = time.perf_counter()
done = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL)
used = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
print(time.perf_counter() - start, used / 2**20)
sys.exit(done.returncode)
"""


def run_timed(command: list[str]) -> tuple[float, float]:
    """Wall seconds and highest memory [GiB] of a command.

    Raises:
        ValueError: it ends with another status than 0.
    """
    timed = [sys.executable, "-c", TIMED, *command]
    done = subprocess.run(timed, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise ValueError(f"{' '.join(command)}: ended with {done.returncode}")
    seconds, memory = map(float, done.stdout.split())
    return seconds, memory


def main() -> None:
    """Time the chosen cases and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", nargs="+", default=CASES)
    parser.add_argument("--repeats", type=int, default=1, help="runs of each; a row each")
    parser.add_argument("options", nargs="*", help="after --: passed on to reconstruct.py")
    args = parser.parse_args()
    made = all_cases(load_config("scorecard", []))
    missing = [name for name in args.cases if name not in made]
    if missing:
        raise ValueError(f"cases {missing[0]!r}: expected a choice of {', '.join(made)}")
    rows = []
    for name in args.cases:
        case, folder = made[name](), PROJECT_ROOT / "runs" / "times" / name
        arguments, out = write_case(case, folder), folder / "chi.nii.gz"
        command = [sys.executable, str(SCRIPT), *arguments, "-o", str(out)]
        for _ in range(args.repeats):
            seconds, memory = run_timed(command + args.options)
            scores = score(read_volume(out).data, case.truth, case.subject.mask)
            row = {"scan": f"{name}, {'×'.join(map(str, case.truth.shape))}"}
            row |= {"seconds": round(seconds, 1), "GiB": round(memory, 1)}
            rows.append(row | {key: scores[key] for key in ("nrmse", "xsim")})
            print("\n".join(table(rows[-1:])), flush=True)
            write_text(PROJECT_ROOT / "docs" / "times.csv", csv_text(rows))


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError) as problem:
        die(f"[times] {problem}")
