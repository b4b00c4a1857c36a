"""Build the folder that the QSM-CI platform takes: `make qsm-ci-entry`, or

    python qsm-ci/build.py [weightsFile=FILE] [dstFolder=FOLDER]

It holds all that is needed at run time: run.sh, algorithm.yml, Dockerfile, code and weights. Try it
with `qsm-ci run runs/qsm-ci-entry --runner local --localfield F --mask M --params P --truth T`.
"""

import os
import re
import shutil
import sys
from pathlib import Path

from configs import PROJECT_ROOT, die, load_config
from network_model.weight_files import weights_hashes

TAG = "[qsm-ci]"
PACKAGES = ("network_model", "training_data")
ENTRY = ("algorithm.yml", "run.sh", "recon.py", "Dockerfile")
LIBRARIES = ("numpy", "scipy", "nibabel", "h5py", "keras", "tensorflow", "tqdm")


def main(argv: list[str]) -> None:
    """Copy template, code and weights to a new folder, and put it in place of the old one."""
    options = dict(a.split("=", 1) for a in argv if "=" in a)
    unknown = [a for a in argv if a.split("=", 1)[0] not in ("weightsFile", "dstFolder")]
    if unknown or len(options) < len(argv):
        raise ValueError(f"{argv}: expected weightsFile=FILE and dstFolder=FOLDER at most")
    weights = options.get("weightsFile", load_config("step6_reconstruct", [])["weightsFile"])
    target = Path(options.get("dstFolder", PROJECT_ROOT / "runs/qsm-ci-entry")).absolute()
    if target.exists() and not (target / "algorithm.yml").is_file():
        raise ValueError(f"{target}: is there and is no such entry; choose another dstFolder")
    hashes = weights_hashes(weights)

    new = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    new.mkdir(parents=True)
    for name in ENTRY:
        shutil.copy2(PROJECT_ROOT / "qsm-ci" / name, new / name)
    for package in PACKAGES:
        for path in sorted((PROJECT_ROOT / package).glob("*.py")):
            (new / package).mkdir(exist_ok=True)
            shutil.copy2(path, new / package / path.name)
    sums = ""
    for path, digest in hashes.items():
        name = path.name if sums else "weights.h5"
        shutil.copyfile(path, new / name)
        sums += f"{digest}  {name}\n"
    (new / "SHA256SUMS").write_text(sums)
    lines = (PROJECT_ROOT / "requirements.txt").read_text().splitlines()
    wanted = [line for line in lines if re.split(r"[<>=\[ ]", line)[0] in LIBRARIES]
    (new / "requirements.txt").write_text("\n".join(wanted) + "\n")

    if target.exists():
        shutil.rmtree(target)
    os.replace(new, target)
    size = sum(p.stat().st_size for p in target.rglob("*") if p.is_file())
    print(f"{TAG} {target}: {size / 1e6:.1f} MB, weights {Path(weights).name} {sums[:12]}")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (ValueError, OSError) as problem:
        die(f"{TAG} {problem}")
