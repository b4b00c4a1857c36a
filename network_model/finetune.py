"""Fine-tuning of a network on one subject: its weights move until D ∗ χ explains the field.

The data term compares phases with the true kernel on the true grid, the other term is total
variation; no label is used. Batch norms keep their trained statistics, so that iteration 0 is plain
inference and every map is what the network gives for this volume.
"""

import dataclasses

import keras
import numpy as np
from tqdm import tqdm

from network_model.callbacks import ExponentialSteps, load_state, save_state
from network_model.inference import long_axis, mended, network_volume, predict_views
from network_model.layers import CalFMLayer
from network_model.losses import NDIErr, TotalVariation
from network_model.scaling import CHI_SCALE, FIELD_SCALE
from network_model.tuning import Tuning
from training_data.inversion import MARGIN
from training_data.volume import crop_pad, next_fast_shape, pad_widths, uncrop

METHODS = ("network", "image", "both")
LOSSES = ("loss", "data", "tv")  # the latter two without their weights


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

    The scan is what the network sees in plain inference: mended beside strong sources, and with B0
    nearest to the third axis.

    Args:
        model: as `load_network` returns it, for the domain "target"; its weights will move.
        spec: its specification.
        subject: a `Subject`.
        tuning: a `Tuning`.
    """

    def __init__(self, model: keras.Model, spec: dict, subject, tuning: Tuning):
        self.subject = subject
        seen = exchanged(mended(spec, subject, {})[0])
        x, mask, self.box = network_volume(spec, seen)
        field = crop_pad(seen.field, self.box, mask.shape) * FIELD_SCALE
        weight = crop_pad(seen.weight, self.box, mask.shape)
        self._inputs = {"target_x": x[None], "target_mask": mask[None, ..., None]}
        truth = np.stack([field, weight, mask], -1)[None].astype(np.float32)
        self._truth = {"target_field": truth, "target_chi": truth[..., :1]}
        freeze_all_but(model, tuning.trainable)
        self.model = tuning_model(model, x.shape, self.box, seen)
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
        mask, along = self.subject.mask, long_axis(self.subject.b0_dir)
        whole = uncrop(out / np.float32(CHI_SCALE), self.box, mask.swapaxes(along, 2).shape)
        return whole.swapaxes(along, 2) * mask

    def save(self, path, rounds: int) -> None:
        """Write weights, optimizer and the number of finished rounds, atomically."""
        save_state(path, self.model, {"rounds": rounds})

    def load(self, path) -> int:
        """Go back to what `save` wrote; returns the number of finished rounds."""
        return load_state(path, self.model)["rounds"]


def exchanged(subject):
    """A `Subject` whose third axis and the one nearest to B0 have changed places."""
    along = long_axis(subject.b0_dir)

    def turned(x):
        return np.ascontiguousarray(x.swapaxes(along, 2))

    order = list(range(3))
    order[along], order[2] = 2, along
    return dataclasses.replace(
        subject, field=turned(subject.field), mask=turned(subject.mask),
        weight=turned(subject.weight), voxel_size=tuple(subject.voxel_size[i] for i in order),
        b0_dir=subject.b0_dir[order], grid=None,
    )  # fmt: skip


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
    """Network followed by the dipole model on a grid that is zero-padded beyond the brain.

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


def fine_tune(given, tuned, tuning: Tuning, iterations: int, mirrors: bool, label: str = ""):
    """χ of a scan after the weights have moved, (X, Y, Z) float32 [ppm] on its own grid.

    Args:
        given, mirrors: see `map_of_all`.
        tuned: the network that is tuned, from `inference.network_to_tune`, and its specification.
        tuning, iterations, label: see `FineTuner`.
    """
    _, _, views, _ = given
    tuner = FineTuner(*tuned, views[0].subject, tuning)
    tuner.run(iterations, label)
    return map_of_all(given, tuner, mirrors)


def map_of_all(given, tuner: FineTuner, mirrors: bool = True) -> np.ndarray:
    """χ of a scan, (X, Y, Z) float32 [ppm] on its own grid, with the tuned network as it is now.

    Of several networks in a row the first one is tuned, and the others are given its map.

    Args:
        given: model, specification, views and memory as `inference.predict_views` takes them.
        tuner: of the scan; mirrors: see `inference.predict`.
    """
    _, spec, views, _ = given
    if spec["tile"]:
        return predict_views(*given, mirrors=mirrors, tuned=tuner.chi())[0]
    return views[0].back(tuner.chi())
