"""Fine-tuning of a network on one subject: its weights move until D ∗ χ explains the field.

The data term compares phases with the true kernel on the true grid, the other term is total
variation; no label is used. Batch norms keep their trained statistics, so that iteration 0 is plain
inference and every map is what the network gives for this volume.
"""

import inspect
from dataclasses import dataclass

import keras
import numpy as np
from tqdm import tqdm

from network_model.callbacks import ExponentialSteps, load_state, save_state
from network_model.inference import network_volume
from network_model.layers import CalFMLayer
from network_model.losses import NDIErr, TotalVariation
from network_model.scaling import CHI_SCALE, FIELD_SCALE
from training_data.inversion import MARGIN
from training_data.volume import crop_pad, next_fast_shape, pad_widths, uncrop

METHODS = ("network", "image", "both")
TRAINABLE = ("all", "norm", "last")
LOSSES = ("loss", "data", "tv")  # the latter two without their weights


@dataclass(frozen=True)
class Tuning:
    """How a network is fine-tuned; the defaults are those of the 2020 release.

    Attributes:
        data_weight: weight of the data consistency.
        tv_weight: weight of the total variation; 0.002 was used at low SNR.
        learning_rate: of Adam, times e^−0.1 every `decay_every` iterations.
        trainable: "all" weights, scale and shift of the "norm" layers, or the "last" convolution.
    """

    data_weight: float = 1.0
    tv_weight: float = 0.001
    learning_rate: float = 1e-5
    decay_every: int = 200
    trainable: str = "all"

    @classmethod
    def from_config(cls, config: dict) -> "Tuning":
        """The tuning's keys out of a step's config."""
        return cls(**{name: config[name] for name in cls.__dataclass_fields__ if name in config})

    def __post_init__(self):
        if self.trainable not in TRAINABLE:
            raise ValueError(
                f"trainable {self.trainable!r}: expected one of {', '.join(TRAINABLE)}"
            )
        for name, low in (("data_weight", 0), ("tv_weight", 0)):
            if not getattr(self, name) >= low:
                raise ValueError(f"{name} {getattr(self, name)}: expected a number >= {low}")
        for name in ("learning_rate", "decay_every"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} {getattr(self, name)}: expected a number > 0")


@keras.saving.register_keras_serializable("qsminvnet")
class InferenceMode(keras.layers.Layer):
    """A network's χ with batch norms that use their stored statistics even while weights train."""

    def __init__(self, network, **kwargs):
        super().__init__(**kwargs)
        self.network = network

    def call(self, inputs):
        return self.network(inputs, training=False)["target_chi"]

    def compute_output_shape(self, input_shape):
        return input_shape["target_mask"]


class FineTuner:
    """A network, a subject and the losses between them.

    Args:
        model: as `load_network` returns it, for the domain "target"; its weights will move.
        spec: its specification.
        subject: a `Subject`.
        tuning: a `Tuning`.
    """

    def __init__(self, model: keras.Model, spec: dict, subject, tuning: Tuning):
        self.subject = subject
        x, mask, self.box = network_volume(spec, subject)
        field = crop_pad(subject.field, self.box, mask.shape) * FIELD_SCALE
        weight = crop_pad(subject.weight, self.box, mask.shape)
        self._inputs = {"target_x": x[None], "target_mask": mask[None, ..., None]}
        truth = np.stack([field, weight, mask], -1)[None].astype(np.float32)
        self._truth = {"target_field": truth, "target_chi": truth[..., :1]}
        freeze_all_but(model, tuning.trainable)
        self.model = tuning_model(model, x.shape, self.box, subject)
        self.model.compile(
            keras.optimizers.Adam(ExponentialSteps(tuning.learning_rate, tuning.decay_every)),
            {"target_field": NDIErr(), "target_chi": TotalVariation()},
            loss_weights={"target_field": tuning.data_weight, "target_chi": tuning.tv_weight},
            jit_compile=keras.backend.backend() == "jax",
        )
        self.model.optimizer.build(self.model.trainable_variables)

    def step(self) -> dict[str, float]:
        """One iteration; returns its `LOSSES`.

        Raises:
            ValueError: the loss is no longer finite.
        """
        out = self.model.train_on_batch(self._inputs, self._truth, return_dict=True)
        # Keras averages over the calls since the last reset.
        self.model.reset_metrics()
        names = ("loss", "target_field_loss", "target_chi_loss")
        row = {key: float(out[name]) for key, name in zip(LOSSES, names, strict=True)}
        if not np.isfinite(row["loss"]):
            raise ValueError("fine-tuning: the loss is not finite; lower the learning rate")
        return row

    def run(self, iterations: int, label: str = "") -> list[dict[str, float]]:
        """So many iterations, with a progress bar where there is a label; returns their losses."""
        rows = []
        bar = tqdm(range(iterations), desc=label, disable=not label)
        for _ in bar:
            rows.append(self.step())
            bar.set_postfix({key: f"{value:.4g}" for key, value in rows[-1].items()}, refresh=False)
        return rows

    def chi(self) -> np.ndarray:
        """χ of the network as it is now, (X, Y, Z) float32 [ppm] on the subject's grid."""
        out = np.asarray(self.model.predict_on_batch(self._inputs)["target_chi"])[0, ..., 0]
        whole = uncrop(out / np.float32(CHI_SCALE), self.box, self.subject.mask.shape)
        return whole * self.subject.mask

    def save(self, path, rounds: int) -> None:
        """Write weights, optimizer and the number of finished rounds, atomically."""
        save_state(path, self.model, {"rounds": rounds})

    def load(self, path) -> int:
        """Go back to what `save` wrote; returns the number of finished rounds."""
        return load_state(path, self.model)["rounds"]


def freeze_all_but(model: keras.Model, trainable: str) -> None:
    """Let only the chosen layers' weights move."""
    for layer in model.layers:
        layer.trainable = (
            trainable == "all"
            or (trainable == "norm" and "_norm" in layer.name)
            or (trainable == "last" and layer.name == "last")
        )
    if not model.trainable_variables:
        raise ValueError(f"trainable {trainable!r}: this network has no such weights")


def tuning_model(model: keras.Model, shape, box, subject) -> keras.Model:
    """Network followed by the dipole model on a grid wide enough that no field wraps around.

    Args:
        model: the network; shape: its grid and channels (X, Y, Z, C).
        box: the mask's box; subject: for voxel size and direction of B0.

    Returns:
        model with outputs "target_field" and "target_chi", both (batch, X, Y, Z, 1).
    """
    grid = tuple(shape[:3])
    inputs = {
        "target_x": keras.Input(shape, name="target_x"),
        "target_mask": keras.Input((*grid, 1), name="target_mask"),
    }
    chi = InferenceMode(model, name="target_chi")(inputs)
    need = [max(n, s.stop - s.start + MARGIN) for n, s in zip(grid, box, strict=True)]
    wide = next_fast_shape(need)
    widths = pad_widths(grid, wide)
    padded = keras.layers.ZeroPadding3D(widths)(chi)
    field = CalFMLayer(wide, subject.voxel_size, subject.b0_dir, name="dipole")(padded)
    field = keras.layers.Cropping3D(widths, name="target_field")(field)
    return keras.Model(inputs, {"target_field": field, "target_chi": chi}, name="finetuning")


def refine_image(chi, subject, structured=None, **options) -> np.ndarray:
    """The map moved instead of the weights: `refine.py` on a subject.

    Args:
        chi: the network's map, (X, Y, Z) [ppm].
        subject: a `Subject`.
        structured: `structured_share` of the subject's field where it is known already.
        options: further keywords of `refine`.

    Raises:
        ValueError: an option that `refine` does not have.
    """
    from network_model.refine import refine

    given = ("chi_network", "field", "mask", "voxel_size", "b0_dir", "magnitude", "structured")
    known = [name for name in inspect.signature(refine).parameters if name not in given]
    unknown = [name for name in options if name not in known]
    if unknown:
        raise ValueError(f"refine option {unknown[0]!r}: expected one of {', '.join(known)}")
    geometry = (subject.mask, subject.voxel_size, subject.b0_dir)
    known = {"magnitude": subject.magnitude, "structured": structured}
    return refine(chi, subject.field, *geometry, **known, **options)
