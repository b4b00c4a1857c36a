"""Step 4 — domain-adaptive training.

    python network_model/train_model/train.py [configs/demo/step4_train.py] [key=value ...]

Source: the patches of step 3, with labels. Target: crops of one real scan, with the dipole model
and total variation in place of labels. Convolutions are shared, every batch norm exists once per
domain. After each epoch the state, the log and the curve are written; the same command after a
kill goes on with the next epoch. `weights.h5` are those of the best validation loss.
"""

import os
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import network_model.quiet  # noqa: F401, I001  before Keras
import keras

from configs import run_step, save_config
from network_model.callbacks import (
    ExponentialSteps,
    LinearDecay,
    append_row,
    cut_rows,
    load_state,
    plot_curves,
    read_rows,
    save_state,
)
from network_model.layers import CalFMLayer
from network_model.losses import SOURCE_LOSSES, NDIErr, TotalVariation
from network_model.subject import subject_from_config
from network_model.train_model.datagenerator import DataGenerator, PatchFile, TargetCrops
from network_model.unet import build_unet, fill_network, grid_multiple, make_spec, save_network

TAG = "[4 train]"
FREE_KEYS = ("datasets_path", "epochs", "patience", "schedule", "learning_rate", "gpus", "validation_steps")


def distribution(gpus: int):
    """TensorFlow's scope for several GPUs of one node; an empty one otherwise."""
    if gpus < 2:
        return keras.name_scope("single")
    if keras.backend.backend() != "tensorflow":
        raise ValueError("gpus above 1 need KERAS_BACKEND=tensorflow")
    import tensorflow as tf

    return tf.distribute.MirroredStrategy([f"GPU:{i}" for i in range(gpus)]).scope()


def gpu_present() -> bool:
    """Whether Keras's backend runs on a GPU."""
    return any(name.startswith("gpu") for name in keras.distribution.list_devices())


def compile_model(config: dict, spec: dict, patches: PatchFile, subject, steps: int) -> keras.Model:
    """Network, physics layer, losses, optimizer and learning rate of a config."""
    domains = ("source", "target") if subject else ("source",)
    model = build_unet(spec, domains)
    if config["warm_start_path"]:
        fill_network(model, config["warm_start_path"])
    losses = {"source_chi": SOURCE_LOSSES[config["source_loss"]]()}
    weights = {"source_chi": config["source_weight"]}
    outputs = dict(model.output)
    if subject:
        physics = CalFMLayer(patches.shape, subject.voxel_size, subject.b0_dir, name="target_field")
        outputs["target_field"] = physics(outputs["target_chi"])
        losses |= {"target_field": NDIErr(), "target_chi": TotalVariation()}
        weights |= {"target_field": config["data_weight"], "target_chi": config["tv_weight"]}
    rate = {
        "2020": lambda: ExponentialSteps(config["learning_rate"]),
        "linear": lambda: LinearDecay(config["learning_rate"], steps, config["decay_share"]),
    }[config["schedule"]]()
    optimizer = keras.optimizers.Adam(rate, clipnorm=config["clipnorm"] or None)
    if config["mixed_precision"] and keras.config.dtype_policy().name == "mixed_float16":
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    model = keras.Model(model.input, outputs, name="training")
    # XLA on a CPU made a TensorFlow step ten times slower (docs/LESSONS.md).
    plain = keras.backend.backend() == "tensorflow" and not gpu_present()
    model.compile(optimizer, losses, loss_weights=weights, jit_compile=False if plain else "auto")
    optimizer.build(model.trainable_variables)
    return model


def check_choices(config: dict) -> None:
    """Raise a ValueError for a schedule or a source loss that does not exist."""
    for key, choices in (("schedule", ("2020", "linear")), ("source_loss", tuple(SOURCE_LOSSES))):
        if config[key] not in choices:
            raise ValueError(f"{key} {config[key]!r}: expected one of {', '.join(choices)}")
    if config["source_balance"] and not config["residual"]:
        raise ValueError("source_balance needs a residual channel to weigh patches by")


def run_epoch(model, config: dict, data: dict, epoch: int) -> dict:
    """One epoch of training and its validation; returns the row of the log."""
    train = DataGenerator(data["patches"], data["train"], config, data["target"], epoch)
    validation = DataGenerator(data["patches"], data["validation"], config, data["target"], -1)
    history = model.fit(
        train, validation_data=validation, epochs=epoch + 1, initial_epoch=epoch, shuffle=False,
        verbose=config["verbose"],
    ).history  # fmt: skip
    row = {name: values[-1] for name, values in history.items()}
    rate = float(keras.ops.convert_to_numpy(model.optimizer.learning_rate))
    return {"epoch": epoch + 1, **row, "learning_rate": rate}


def main(config: dict) -> None:
    """Run step 4, from the beginning or from the last finished epoch."""
    check_choices(config)
    spec, folder = make_spec(config), Path(config["dstFolder"])
    patches = PatchFile(config["datasets_path"], spec["inputs"])
    if any(n % grid_multiple(spec) for n in patches.shape):
        raise ValueError(f"patches of {patches.shape}: depth {spec['depth']} needs multiples of "
                         f"{grid_multiple(spec)}; change patch_size in step 3, or depth")  # fmt: skip
    subject = subject_from_config(config) if config["fieldFile"] else None
    save_config(config, folder, free=FREE_KEYS)

    keras.utils.set_random_seed(config["seed"])
    if config["mixed_precision"]:
        half = "mixed_float16" if gpu_present() else "mixed_bfloat16"
        keras.mixed_precision.set_global_policy(half)
    train, validation = patches.split(config["validation_split"], config["seed"])
    target = (
        TargetCrops(subject, spec["inputs"], patches.shape, config["target_crop"])
        if subject
        else None
    )
    data = {"patches": patches, "train": train, "validation": validation, "target": target}
    steps = config["epochs"] * len(DataGenerator(patches, train, config))
    with distribution(config["gpus"]):
        model = compile_model(config, spec, patches, subject, steps)

    state, log = folder / "state.h5", folder / "log.csv"
    done = {"epoch": 0, "best": float("inf"), "best_epoch": 0}
    if state.is_file():
        done = load_state(state, model)
        print(f"{TAG} going on after epoch {done['epoch']} of {config['epochs']}", flush=True)
    cut_rows(log, done["epoch"])
    print(f"{TAG} {len(train)} patches to train on, {len(validation)} to validate, "
          f"{model.count_params():,} parameters", flush=True)  # fmt: skip

    for epoch in range(done["epoch"], config["epochs"]):
        row = run_epoch(model, config, data, epoch)
        append_row(log, row)
        if row["val_loss"] < done["best"]:
            done |= {"best": row["val_loss"], "best_epoch": epoch + 1}
            notes = {"config": config, "epoch": epoch + 1, "val_loss": row["val_loss"]}
            save_network(model, spec, folder / "weights.h5", notes, config["weights_dtype"])
        save_state(state, model, done | {"epoch": epoch + 1})
        plot_curves(folder / "curve.png", read_rows(log), "epoch", "Training and validation loss")
        if epoch + 1 - done["best_epoch"] >= config["patience"]:
            print(f"{TAG} no better validation loss in {config['patience']} epochs", flush=True)
            break
    print(f"{TAG} best validation loss {done['best']:.5f} in epoch {done['best_epoch']}; "
          f"weights in {folder / 'weights.h5'}", flush=True)  # fmt: skip


if __name__ == "__main__":
    run_step("step4_train", main)
