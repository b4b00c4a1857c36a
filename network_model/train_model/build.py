"""The training model of a config: network, physics layer, losses, optimizer, learning rate."""

import contextlib
import ctypes

import keras

from network_model.callbacks import ExponentialSteps, LinearDecay
from network_model.layers import CalFMLayer
from network_model.losses import SOURCE_LOSSES, Dissimilarity, NDIErr, TotalVariation
from network_model.quiet import silent_stderr
from network_model.train_model.datagenerator import PatchFile
from network_model.unet import build_unet, warm_start
from training_data.channels import UNSIGNED
from training_data.volume import check_size

SCHEDULES = ("2020", "linear")
AHEAD = 2  # batches that are ready for TensorFlow while it takes a step
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of malloc.h


def check_options(config: dict) -> None:
    """Raise a ValueError for an option that no training could be done with."""
    for key, choices in (("schedule", SCHEDULES), ("source_loss", tuple(SOURCE_LOSSES))):
        if config[key] not in choices:
            raise ValueError(f"{key} {config[key]!r}: expected one of {', '.join(choices)}")
    for key, low in (("batch_size", 1), ("epochs", 1), ("steps_per_epoch", 0),
                     ("validation_steps", 0), ("patience", 1), ("seed", 0), ("workers", 1),
                     ("linear_start", 0)):  # fmt: skip
        if config[key] < low:
            raise ValueError(f"{key} {config[key]}: expected a whole number of at least {low}")
    if config["crop"] is not None:
        check_size("crop", config["crop"], 1)
    if config["linear_start"] and not config["linear_path"]:
        raise ValueError("linear_start: sets a linear path; expected linear_path=True with it")
    if config["resident"] and keras.backend.backend() != "torch":
        raise ValueError("resident: with this backend a batch goes through the memory of the host; "
                         "set KERAS_BACKEND=torch, or resident=False")  # fmt: skip
    for key in ("source_weight", "xsim_weight", "data_weight", "tv_weight", "clipnorm"):
        if not config[key] >= 0:
            raise ValueError(f"{key} {config[key]}: expected a number >= 0")
    for key in ("decay_share", "sign_chance"):
        if not 0 <= config[key] <= 1:
            raise ValueError(f"{key} {config[key]}: expected a number from 0 to 1")
    balance = config["source_balance"]
    if balance and (balance not in config["inputs"] or balance in UNSIGNED):
        raise ValueError(f"source_balance {balance!r}: expected None or an inversion in inputs")
    if not 0 < config["validation_split"] < 1:
        raise ValueError(f"validation_split {config['validation_split']}: expected 0 < share < 1")
    if not config["learning_rate"] > 0:
        raise ValueError(f"learning_rate {config['learning_rate']}: expected a positive number")
    if config["half"] not in ("bfloat16", "float16"):
        raise ValueError(f"half {config['half']!r}: expected bfloat16 or float16")
    if config["weights_dtype"] not in ("float32", "float16"):
        raise ValueError(f"weights_dtype {config['weights_dtype']!r}: expected float32 or float16")


def for_fit(data: keras.utils.PyDataset):
    """The same batches as `fit` is to be given them: on TensorFlow without tf.data's autotuning.

    An iterator of tf.data may wait at its end for the thread that tunes it, which sleeps for 10 ms
    and then twice as long each time: after 50 s of training, 32 s of nothing (TensorFlow 2.21).

    Args:
        data: batches of a training or a validation.

    Returns:
        `data` itself with other backends, else a tf.data.Dataset of the same batches.
    """
    if keras.backend.backend() != "tensorflow":
        return data
    import tensorflow as tf

    def kind(array):
        return tf.TensorSpec((None, *array.shape[1:]), array.dtype)

    signature = keras.tree.map_structure(kind, data[0])
    batches = tf.data.Dataset.from_generator(
        lambda: map(data.__getitem__, range(len(data))), output_signature=signature
    )
    options = tf.data.Options()
    options.autotune.enabled = False
    batches = batches.apply(tf.data.experimental.assert_cardinality(len(data)))
    return batches.prefetch(AHEAD).with_options(options)


def distribution(gpus: int):
    """TensorFlow's scope for several GPUs of one node; an empty one otherwise."""
    if gpus < 2:
        return keras.name_scope("single")
    if keras.backend.backend() != "tensorflow":
        raise ValueError("gpus above 1 need KERAS_BACKEND=tensorflow")
    import tensorflow as tf

    found = len(tf.config.list_physical_devices("GPU"))
    if found < gpus:
        raise ValueError(f"gpus {gpus}: TensorFlow sees {found}; set gpus to that, or 0")
    return tf.distribute.MirroredStrategy([f"GPU:{i}" for i in range(gpus)]).scope()


def tune_backend() -> None:
    """Settings that make a long training of one shape faster, whatever it computes.

    glibc gives memory of large arrays back to the system, which costs a page fault for every 4 kB
    of the next ones (docs/LESSONS.md); cuDNN can try its algorithms once per shape.
    """
    with contextlib.suppress(OSError, AttributeError):  # another C library
        mallopt = ctypes.CDLL("libc.so.6").mallopt
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
    if keras.backend.backend() == "torch":
        import torch

        torch.backends.cudnn.benchmark = True


def gpu_present() -> bool:
    """Whether Keras's backend runs on a GPU."""
    if keras.backend.backend() == "torch":
        import torch

        return torch.cuda.is_available()
    with silent_stderr():  # where there is none, TensorFlow says so in CUDA's words
        return any(name.startswith("gpu") for name in keras.distribution.list_devices())


def compiled() -> bool | str:
    """Keras's `jit_compile` of a training.

    XLA on a CPU made a TensorFlow step ten times slower (docs/LESSONS.md).
    """
    plain = keras.backend.backend() == "tensorflow" and not gpu_present()
    return False if plain else "auto"


def compile_model(config: dict, spec: dict, patches: PatchFile, subject, steps: int) -> keras.Model:
    """Network, physics layer, losses, optimizer and learning rate of a config."""
    domains = ("source", "target") if subject else ("source",)
    model = build_unet(spec, domains)
    if config["warm_start_path"]:
        warm_start(model, spec, config["warm_start_path"])
    losses = {"source_chi": SOURCE_LOSSES[config["source_loss"]]()}
    weights = {"source_chi": config["source_weight"]}
    outputs = dict(model.output)
    if config["xsim_weight"]:
        outputs["source_xsim"] = keras.layers.Identity(dtype="float32")(outputs["source_chi"])
        losses["source_xsim"], weights["source_xsim"] = Dissimilarity(), config["xsim_weight"]
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
    model.compile(optimizer, losses, loss_weights=weights, jit_compile=compiled())
    optimizer.build(model.trainable_variables)
    return model
