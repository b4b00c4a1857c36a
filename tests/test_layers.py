"""The physics layer = the NumPy forward model; the non-local block; on any Keras backend."""

import numpy as np
import pytest

import network_model.quiet  # noqa: F401

# isort: split
import keras

from network_model.layers import (
    CalFMLayer,
    DepthToSpace,
    JoinedConv3D,
    NonLocal,
    SpaceToDepth,
    fft3d,
)
from network_model.scaling import CHANNEL_SCALE, CHI_SCALE, FIELD_SCALE, network_input
from network_model.train_model.build import gpu_present
from training_data.channels import CHANNELS, FIRST, GUIDED
from training_data.dipole import forward_field

GEOMETRY = [
    ((12, 10, 9), (1.0, 1.0, 1.0), (0, 0, 1)),
    ((11, 8, 12), (1.0, 1.2, 2.0), (0.3, -0.5, 0.8)),
    ((9, 14, 10), (0.7, 1.3, 0.9), (0, 1, 0.2)),
]


def to_numpy(x):
    return keras.ops.convert_to_numpy(x)


@pytest.mark.parametrize(("shape", "voxel_size", "b0_dir"), GEOMETRY)
def test_layer_is_the_numpy_forward_model(shape, voxel_size, b0_dir):
    chi = np.random.default_rng(0).standard_normal((2, *shape, 1)).astype(np.float32)
    layer = CalFMLayer(shape, voxel_size, b0_dir)
    out = to_numpy(layer(chi * CHI_SCALE))
    assert out.shape == chi.shape
    assert out.dtype == np.float32
    for i in range(2):
        field = forward_field(chi[i, ..., 0], voxel_size, b0_dir, pad=False)
        np.testing.assert_allclose(out[i, ..., 0], FIELD_SCALE * field, atol=2e-4)


@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_joined_convolution_is_that_of_the_doubled_features_and_the_skip(policy, use_bias):
    rng = np.random.default_rng(3)
    below = rng.standard_normal((2, 5, 3, 4, 6)).astype(np.float32)
    skip = rng.standard_normal((2, 10, 6, 8, 5)).astype(np.float32)
    kernel = rng.standard_normal((3, 3, 3, 11, 7)).astype(np.float32)
    weights = [kernel, rng.standard_normal(7).astype(np.float32)][: 1 + use_bias]
    plain = keras.layers.Conv3D(7, 3, padding="same", use_bias=use_bias, activation="tanh")
    joined = JoinedConv3D(7, use_bias=use_bias, activation="tanh", dtype=policy)
    joined = JoinedConv3D.from_config(joined.get_config())
    joined.build([below.shape, skip.shape])
    both = keras.layers.Concatenate()([keras.layers.UpSampling3D(2)(below), skip])
    plain.build(both.shape)
    for layer in (plain, joined):
        layer.set_weights([0.05 * w for w in weights])
    found = to_numpy(keras.ops.cast(joined([below, skip]), "float32"))
    assert joined.compute_output_shape([below.shape, skip.shape]) == found.shape
    expected = to_numpy(plain(both))
    assert found.std() > 0.3
    assert np.abs(found - expected).max() < (2e-6 if policy == "float32" else 0.1)
    assert np.std(found - expected) < (2e-6 if policy == "float32" else 0.01)


def test_layer_stays_in_single_precision_under_a_half_precision_policy():
    shape = (8, 9, 10)
    chi = np.random.default_rng(1).standard_normal((1, *shape, 1)).astype(np.float32)
    expected = to_numpy(CalFMLayer(shape, (1, 1, 1))(chi))
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        found = to_numpy(CalFMLayer(shape, (1, 1, 1))(chi))
    finally:
        keras.config.set_dtype_policy("float32")
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    "layer",
    [
        CalFMLayer((8, 9, 7), (1, 1.2, 2), (0, 0.6, 0.8), name="dipole"),
        NonLocal(name="attention"),
        SpaceToDepth(1, name="blocks"),
        DepthToSpace(1, name="voxels"),
    ],
    ids=lambda layer: layer.name,
)
def test_layers_are_rebuilt_from_their_config(layer):
    twin = type(layer).from_config(layer.get_config())
    assert twin.get_config() == layer.get_config()
    x = np.random.default_rng(2).standard_normal((1, 8, 9, 7, 1)).astype(np.float32)
    np.testing.assert_allclose(to_numpy(twin(x)), to_numpy(layer(x)), atol=1e-6)


def test_fft_and_its_inverse():
    x = np.random.default_rng(3).standard_normal((2, 5, 6, 7)).astype(np.complex64)
    spectrum = fft3d(keras.ops.convert_to_tensor(x))
    np.testing.assert_allclose(to_numpy(spectrum), np.fft.fftn(x, axes=(1, 2, 3)), atol=1e-4)
    np.testing.assert_allclose(to_numpy(fft3d(spectrum, inverse=True)), x, atol=1e-5)


def test_nonlocal_block_is_attention_over_all_positions():
    x = np.random.default_rng(4).standard_normal((2, 3, 4, 5, 6)).astype(np.float32)
    layer = NonLocal()
    np.testing.assert_array_equal(to_numpy(layer(x)), x)  # zero at the start
    back = np.random.default_rng(5).standard_normal((3, 6)).astype(np.float32)
    layer.back.assign(back)
    query, key, value = (to_numpy(w) for w in (layer.query, layer.key, layer.value))
    flat = x.reshape(2, 60, 6)
    score = (flat @ query) @ (flat @ key).transpose(0, 2, 1) / np.sqrt(3)
    share = np.exp(score - score.max(-1, keepdims=True))
    share /= share.sum(-1, keepdims=True)
    expected = flat + share @ (flat @ value) @ back
    # JAX multiplies matrices of float32 in 10 bits (TF32) on a GPU.
    atol = 0.02 if gpu_present() else 1e-4
    np.testing.assert_allclose(to_numpy(layer(x)).reshape(2, 60, 6), expected, atol=atol)


def test_scales_of_the_channels():
    channels = {name: np.full((2, 3, 4), i + 1.0) for i, name in enumerate(CHANNELS)}
    assert set(CHANNEL_SCALE) == {*CHANNELS, FIRST, *GUIDED}
    x = network_input(channels, ["tv", "field", "mask"])
    assert x.shape == (2, 3, 4, 3)
    assert x.dtype == np.float32
    np.testing.assert_allclose(x[0, 0, 0], (len(CHANNELS) * CHI_SCALE, FIELD_SCALE, 2))
    # In these units 3·D maps what comes out to what went in.
    assert pytest.approx(FIELD_SCALE) == 3 * CHI_SCALE


def test_blocks_of_voxels_become_channels_and_voxels_again():
    x = np.random.default_rng(6).standard_normal((2, 4, 6, 8, 3)).astype(np.float32)
    blocks = to_numpy(SpaceToDepth(2)(x))
    assert blocks.shape == (2, 2, 3, 4, 24)
    # Channels are ordered by place in the block, then by the channel they had.
    np.testing.assert_array_equal(blocks[:, 1, 2, 3].reshape(2, 2, 2, 2, 3), x[:, 2:, 4:, 6:])
    np.testing.assert_array_equal(to_numpy(DepthToSpace(2)(blocks)), x)
    inputs = keras.Input((None, None, None, 3))
    model = keras.Model(inputs, DepthToSpace(2)(SpaceToDepth(2)(inputs)))
    assert model.output_shape == (None, None, None, None, 3)
    np.testing.assert_array_equal(to_numpy(model(x)), x)
