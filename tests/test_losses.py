"""Losses against what NumPy gives, and gradients through the physics, under any Keras backend."""

import numpy as np
import pytest

import network_model.quiet  # noqa: F401

# isort: split
import keras

from network_model.layers import CalFMLayer
from network_model.losses import (
    SOURCE_LOSSES,
    Dissimilarity,
    NDIErr,
    SourceL1,
    SourceL1RMS,
    TotalVariation,
)
from network_model.metrics import xsim
from network_model.scaling import CHI_SCALE

SHAPE = (2, 7, 6, 5, 1)


def random(*seeds):
    return [np.random.default_rng(s).standard_normal(SHAPE).astype(np.float32) for s in seeds]


def value(loss, y_true, y_pred):
    return float(keras.ops.convert_to_numpy(loss(y_true, y_pred)))


def test_source_losses():
    truth, found = random(0, 1)
    error = np.abs(found - truth)
    assert value(SourceL1(), truth, found) == pytest.approx(error.mean(), rel=1e-5)
    rms = np.sqrt((error**2).mean((1, 2, 3, 4))).mean()  # of each patch, then of the batch
    assert value(SourceL1RMS(), truth, found) == pytest.approx(error.mean() + rms, rel=1e-5)
    assert value(SourceL1(), truth, truth) == 0
    assert value(SourceL1RMS(), truth, truth) < 1e-3
    assert {"l1": SourceL1, "l1_rms": SourceL1RMS} == SOURCE_LOSSES


@pytest.mark.parametrize("noise", [0.0, 0.002, 0.02])
def test_dissimilarity_is_that_of_the_scorer(noise):
    """On a grid whose windows of every second voxel all lie inside, up to where windows are."""
    rng = np.random.default_rng(7)
    mask = np.zeros((34, 36, 40), bool)
    mask[5:30, 4:30, 6:35] = True
    truth = np.where(mask, np.cumsum(rng.standard_normal(mask.shape), 0) * 0.02 + 0.001, 0)
    found = np.where(mask, truth + noise * rng.standard_normal(mask.shape), 0)
    pair = [(CHI_SCALE * x[None, ..., None]).astype(np.float32) for x in (truth, found)]
    expected = 1 - xsim(found, truth, mask)
    assert value(Dissimilarity(), *pair) == pytest.approx(expected, abs=0.02 * expected + 1e-4)


def test_weights_of_patches():
    truth, found = random(0, 1)
    error = np.abs(found - truth).mean((1, 2, 3, 4))
    weighted = SourceL1()(truth, found, sample_weight=np.array([1.0, 3.0]))
    expected = (error * (1, 3)).mean()
    assert float(keras.ops.convert_to_numpy(weighted)) == pytest.approx(expected, rel=1e-5)


def test_data_consistency_is_the_weighted_difference_of_phases():
    field, found, weight = random(0, 1, 2)
    mask = (np.random.default_rng(3).random(SHAPE) < 0.6).astype(np.float32)
    misfit = np.abs(weight * (np.exp(1j * field) - np.exp(1j * found))) ** 2
    expected = ((misfit * mask).sum((1, 2, 3, 4)) / mask.sum((1, 2, 3, 4))).mean()
    truth = np.concatenate([field, weight, mask], -1)
    assert value(NDIErr(), truth, found) == pytest.approx(expected, rel=1e-4)
    wrapped = np.concatenate([field + 2 * np.pi, weight, mask], -1)  # wraps do not count
    assert value(NDIErr(), wrapped, found) == pytest.approx(expected, rel=1e-3)
    assert value(NDIErr(), truth, field) == 0
    empty = np.concatenate([field, weight, 0 * mask], -1)
    assert value(NDIErr(), empty, found) == 0


def test_small_phases_keep_their_precision():
    field = np.full(SHAPE, 1.0, np.float32)
    ones = np.ones(SHAPE, np.float32)
    truth = np.concatenate([field, ones, ones], -1)
    step = np.float32(1 + 1e-4) - np.float32(1)
    assert value(NDIErr(), truth, field + step) == pytest.approx(float(step) ** 2, rel=1e-3)


def test_total_variation_is_the_mean_of_forward_differences():
    (x,) = random(4)
    expected = sum(np.abs(np.diff(x, axis=axis)).mean() for axis in (1, 2, 3))
    assert value(TotalVariation(), x * 0, x) == pytest.approx(expected, rel=1e-5)
    assert value(TotalVariation(), x, x) == pytest.approx(expected, rel=1e-5)
    assert value(TotalVariation(), x, x * 0 + 5) == 0
    ramp = np.broadcast_to(np.arange(7.0).reshape(1, 7, 1, 1, 1) * 2, SHAPE).astype(np.float32)
    assert value(TotalVariation(), x, ramp) == pytest.approx(2)


@pytest.mark.parametrize("loss", [*SOURCE_LOSSES.values(), Dissimilarity, NDIErr, TotalVariation])
def test_losses_are_rebuilt_from_their_config(loss):
    twin = keras.losses.deserialize(keras.losses.serialize(loss()))
    assert type(twin) is loss


def test_gradients_flow_through_the_physics():
    """A map that is free in every voxel learns the field of another one."""
    shape = SHAPE[1:4]
    chi = random(5)[0][:1]
    dipole = CalFMLayer(shape, (1, 1.2, 1.5), (0.3, -0.2, 0.9))
    field = keras.ops.convert_to_numpy(dipole(chi))
    ones = np.ones_like(field)
    inputs = keras.Input((1,))
    free = keras.layers.Dense(int(np.prod(shape)), use_bias=False, kernel_initializer="zeros")
    map_ = keras.layers.Reshape((*shape, 1))(free(inputs))
    model = keras.Model(inputs, dipole(map_))
    jit = keras.backend.backend() == "jax"
    model.compile(keras.optimizers.Adam(0.05), NDIErr(), jit_compile=jit)
    truth = np.concatenate([field, ones, ones], -1)
    losses = [float(model.train_on_batch(np.ones((1, 1)), truth)) for _ in range(40)]
    assert losses[-1] < 0.2 * losses[0]
