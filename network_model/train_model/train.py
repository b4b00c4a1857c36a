"""Step 4 — domain-adaptive training.

    python network_model/train_model/train.py [configs/demo/step4_train.py] [key=value ...]

Source: the patches of step 3, with labels. Target: crops of one real scan, with the dipole model
and total variation in place of labels. Convolutions are shared, every batch norm exists once per
domain. After each epoch the state, the log and the curve are written; the same command after a
kill goes on with the next epoch. `weights.h5` are those of the best validation loss.
"""

import math
from pathlib import Path

import network_model.quiet  # noqa: F401  before Keras

# isort: split
import keras

from configs import run_step, save_config
from network_model.callbacks import (
    append_row,
    cut_rows,
    load_state,
    plot_curves,
    read_rows,
    save_state,
)
from network_model.subject import scan_hashes, subject_from_config
from network_model.train_model.build import (
    check_options,
    compile_model,
    distribution,
    for_fit,
    tune_backend,
)
from network_model.train_model.datagenerator import (
    DataGenerator,
    PatchFile,
    ResidentPatches,
    TargetCrops,
)
from network_model.train_model.linear_start import fit_linear_path
from network_model.unet import check_first, grid_multiple, make_spec, save_network
from training_data.channels import FIRST
from training_data.origin import file_hash, file_hashes

TAG = "[4 train]"
FREE_KEYS = (
    "run", "dstFolder", "datasets_path", "epochs", "patience", "schedule", "learning_rate", "gpus",
    "validation_steps", "verbose", "weights_dtype", "first_share", "workers",
    "resident", "decay_share",
)  # fmt: skip


def run_epoch(model, config: dict, data: dict, epoch: int) -> dict:
    """One epoch of training and its validation; returns the row of the log."""
    train, validation = (
        for_fit(DataGenerator(data["patches"], data[part], config, data["target"], number))
        for part, number in (("train", epoch), ("validation", -1))
    )
    history = model.fit(
        train, validation_data=validation, epochs=epoch + 1, initial_epoch=epoch, shuffle=False,
        verbose=config["verbose"],
    ).history  # fmt: skip
    row = {name: values[-1] for name, values in history.items()}
    rate = float(keras.ops.convert_to_numpy(model.optimizer.learning_rate))
    return {"epoch": epoch + 1, **row, "learning_rate": rate}


def load_data(config: dict, spec: dict) -> dict:
    """Patches, their split, the subject of the target domain and its crops.

    Raises:
        ValueError: a file or an option that cannot be used.
    """
    check_first(spec)
    kind = ResidentPatches if config["resident"] else PatchFile
    patches = kind(config["datasets_path"], spec["inputs"], config["crop"])
    if any(n % grid_multiple(spec) for n in patches.shape):
        raise ValueError(f"patches of {patches.shape}: depth {spec['depth']} needs multiples of "
                         f"{grid_multiple(spec)}; change patch_size of step 3")  # fmt: skip
    made_with = patches.file.attrs.get("first_sha256")
    if FIRST in spec["inputs"] and made_with not in (None, file_hash(spec["first"]["path"])):
        raise ValueError(f"{config['datasets_path']}: its first maps are not those of "
                         f"{config['firstFile']}; run step 3 again in another folder")  # fmt: skip
    train, validation = patches.split(config["validation_split"], config["seed"], config["maps"])
    subject = target = None
    if config["fieldFile"]:
        subject = subject_from_config(config, TAG)
        target = TargetCrops(subject, spec, patches.shape, config["target_crop"])
    print(f"{TAG} {len(train)} patches to train on, {len(validation)} to validate", flush=True)
    return {"patches": patches, "train": train, "validation": validation,
            "subject": subject, "target": target}  # fmt: skip


def main(config: dict) -> None:
    """Run step 4, from the beginning or from the last finished epoch."""
    check_options(config)
    spec, folder = make_spec(config), Path(config["dstFolder"])
    data = load_data(config, spec)

    keras.utils.set_random_seed(config["seed"])
    tune_backend()
    half = f"mixed_{config['half']}"
    keras.config.set_dtype_policy(half if config["mixed_precision"] else "float32")
    steps = config["epochs"] * len(DataGenerator(data["patches"], data["train"], config))
    with distribution(config["gpus"]):
        model = compile_model(config, spec, data["patches"], data["subject"], steps)
    # Once nothing in it is refused; resumed on the same patches and the same scan only.
    used = {"patches_sha256": data["patches"].digest()} | scan_hashes(config)
    used |= file_hashes(warm_start=config["warm_start_path"])
    save_config(config | used, folder, free=FREE_KEYS)
    print(f"{TAG} {model.count_params():,} parameters", flush=True)

    state, log = folder / "state.h5", folder / "log.csv"
    done = {"epoch": 0, "best": float("inf"), "best_epoch": 0}
    if state.is_file():
        done = load_state(state, model)
        print(f"{TAG} going on after epoch {done['epoch']} of {config['epochs']}", flush=True)
    elif config["linear_start"]:
        shares = fit_linear_path(model, spec, data["patches"], data["train"], config)
        print(f"{TAG} least squares: {shares}", flush=True)
    cut_rows(log, done["epoch"])

    for epoch in range(done["epoch"], config["epochs"]):
        if epoch - done["best_epoch"] >= config["patience"]:
            print(f"{TAG} no better validation loss in {config['patience']} epochs", flush=True)
            break
        row = run_epoch(model, config, data, epoch)
        if not math.isfinite(row["loss"] + row["val_loss"]):
            raise ValueError(f"epoch {epoch + 1}: the loss is not finite; lower learning_rate")
        append_row(log, row)
        if row["val_loss"] < done["best"]:
            done |= {"best": row["val_loss"], "best_epoch": epoch + 1}
            notes = {"config": config, "epoch": epoch + 1, "val_loss": row["val_loss"]}
            save_network(model, spec, folder / "weights.h5", notes, config["weights_dtype"])
        done["epoch"] = epoch + 1
        save_state(state, model, done)
        plot_curves(folder / "curve.png", read_rows(log), "epoch", "Training and validation loss")
    print(f"{TAG} best validation loss {done['best']:.5f} in epoch {done['best_epoch']}; "
          f"weights in {folder / 'weights.h5'}", flush=True)  # fmt: skip


if __name__ == "__main__":
    run_step("step4_train", main)
