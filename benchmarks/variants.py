"""Networks that differ in one thing, trained at equal cost and scored on the same scans.

    python benchmarks/variants.py domains [--steps 400]
    python benchmarks/variants.py networks [--seconds 300]

domains:   the parts of domain adaptation, at equal steps: COSMOS as source, the measured field of
           the 2016 challenge as target (its χ is never shown; it is that of the training head).
           Needs `configs/qsm2016` up to step 3.
networks:  architectures, norms and inputs, at equal CPU seconds; all on the patches of
           `configs/flat`, up to step 3. All but the first give χ itself from field, mask, noise and
           direct inversions; "a correction to TV" what is to be added to the last of these.

Each variant is one run of step 4; a finished one is not trained again. The table goes to
docs/variants_<name>.csv.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path

import network_model.quiet  # noqa: F401

# isort: split
import keras
import numpy as np

from configs import PROJECT_ROOT, die, load_config, write_text
from network_model.cases import all_cases
from network_model.inference import predict
from network_model.metrics import csv_text, score, table
from network_model.reconstruction import residual_field
from network_model.train_model.build import check_options, compile_model
from network_model.train_model.datagenerator import DataGenerator, PatchFile
from network_model.unet import load_network, make_spec

SMALL = {"filters": 16, "depth": 4, "source_loss": "l1_rms", "learning_rate": 1e-3,
         "schedule": "linear", "clipnorm": 1.0, "augment": True, "validation_steps": 18,
         "verbose": 2, "epochs": 1}  # fmt: skip
MEASURED = {f"{kind}File": f"../shared/data/qsm2016/{name}.nii.gz" for kind, name in
            (("field", "phs_tissue"), ("mask", "mask"), ("magnitude", "magnitude"))}  # fmt: skip
PLAIN = {"inputs": ["field", "mask"], "residual": None, "batch_size": 1,
         "datasets_path": "runs/qsm2016/3_patches/patches.h5"}  # fmt: skip
TARGET = MEASURED | {"target_crop": "random", "data_weight": 0.0, "tv_weight": 0.0}
DOMAINS = {
    "source only": {"norm": "domain"},
    "shared batch norm": TARGET | {"norm": "batch"},
    "one batch norm per domain": TARGET | {"norm": "domain"},
    "+ data consistency": TARGET | {"norm": "domain", "data_weight": 20.0},
    "+ total variation": TARGET | {"norm": "domain", "data_weight": 20.0, "tv_weight": 0.05},
}
DIRECT = ["field", "mask", "noise", "tikhonov", "wiener", "tv"]
BASE = {"inputs": DIRECT, "norm": "none", "use_bias": False, "source_balance": "tv",
        "sign_chance": 0.3, "batch_size": 1,
        "datasets_path": "runs/flat/3_patches/patches.h5"}  # fmt: skip
NETWORKS = {
    "field and mask alone": {"inputs": ["field", "mask"], "source_balance": None},
    "one convolution a level": {},
    "a correction to TV": {"residual": "tv"},
    "two convolutions a level": {"convs_per_level": 2},
    "two, bfloat16": {"convs_per_level": 2, "mixed_precision": True},
    "24 filters": {"filters": 24},
    "32, two, blocks of 2³ voxels": {"filters": 32, "convs_per_level": 2, "shuffle": 2, "tile": 64},
    "batch norm": {"norm": "domain", "use_bias": True},
    "group norm": {"norm": "group", "use_bias": True},
    "nonlocal_gated": {"architecture": "nonlocal_gated"},
}
CASES = ("head1001", "fansi", "measured2016")


def cpu_seconds_per_step(keys: dict, steps: int = 4) -> float:
    """CPU seconds, over all cores, of one training step of a config."""
    config = load_config("step4_train", []) | keys
    check_options(config)
    policy = "mixed_bfloat16" if config["mixed_precision"] else "float32"
    keras.config.set_dtype_policy(policy)
    spec = make_spec(config)
    patches = PatchFile(config["datasets_path"], spec["inputs"])
    model = compile_model(config, spec, patches, None, 1)
    data = DataGenerator(patches, np.arange(2 * config["batch_size"]), config, None, 0)
    model.train_on_batch(*data[0])
    start = time.process_time()
    for i in range(steps):
        model.train_on_batch(*data[i % 2])
    keras.config.set_dtype_policy("float32")
    return (time.process_time() - start) / steps


def train(folder: Path, keys: dict) -> None:
    """One run of step 4 in a process of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    changed = folder / "changed.py"
    changed.write_text(f"config = {keys | {'dstFolder': str(folder)}!r}\n")
    script = PROJECT_ROOT / "network_model" / "train_model" / "train.py"
    subprocess.run([sys.executable, script, changed], check=True, cwd=PROJECT_ROOT)


def score_network(path: Path, cases: dict) -> dict:
    """NRMSE/XSIM on every case, and the share of the measured field left unexplained [%]."""
    model, spec = load_network(path)
    row = {}
    for name, case in cases.items():
        chi = predict(model, spec, case.subject)
        scores = score(chi, case.truth, case.subject.mask)
        row |= {f"{name} nrmse": scores["nrmse"], f"{name} xsim": scores["xsim"]}
        if name == "measured2016":
            left, mask = residual_field(case.subject, chi), case.subject.mask
            row["misfit"] = 100 * float(left[mask].std() / case.subject.field[mask].std())
    return row


def main() -> None:
    """Train and score the variants of one table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("table", choices=("domains", "networks"))
    parser.add_argument("--steps", type=int, default=400, help="of each variant of domains")
    parser.add_argument("--seconds", type=float, default=300, help="of CPU, networks")
    parser.add_argument("--cases", nargs="+", default=CASES)
    args = parser.parse_args()
    made = all_cases(load_config("scorecard", []))
    cases = {name: made[name]() for name in args.cases}
    variants, common = {"domains": (DOMAINS, PLAIN), "networks": (NETWORKS, BASE)}[args.table]
    rows = []
    for name, changed in variants.items():
        keys = SMALL | common | changed
        folder = PROJECT_ROOT / "runs" / "variants" / args.table / name.replace(" ", "_")
        if not (folder / "weights.h5").is_file():
            steps = args.steps
            if args.table == "networks":
                steps = round(args.seconds / cpu_seconds_per_step(keys))
            train(folder, keys | {"steps_per_epoch": steps})
        steps = load_config("step4_train", [str(folder / "changed.py")])["steps_per_epoch"]
        scores = score_network(folder / "weights.h5", cases)
        rows.append({"variant": name, "steps": steps} | scores)
        print("\n".join(table(rows)), flush=True)
        write_text(PROJECT_ROOT / "docs" / f"variants_{args.table}.csv", csv_text(rows))


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError, KeyError) as problem:
        die(f"[variants] {problem}")
