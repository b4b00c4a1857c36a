"""The one builder: shared convolutions, a norm per domain, files that give the same output."""

import json
import os
import subprocess
import sys

import h5py
import numpy as np
import pytest

import network_model.quiet  # noqa: F401

# isort: split
import keras

from network_model.layers import JoinedConv3D
from network_model.train_model.build import gpu_present
from network_model.unet import (
    NORMS,
    build_unet,
    fill_network,
    grid_multiple,
    load_network,
    make_spec,
    read_spec,
    save_network,
    warm_start,
)
from training_data.origin import file_hash

SHAPE = (8, 12, 16)
SMALL = {"filters": 3, "depth": 3}


def network(domains=("source", "target"), **keys):
    keras.utils.set_random_seed(1)
    spec = make_spec(SMALL | keys)
    return build_unet(spec, domains), spec


def disturb(model, seed=0):
    """Statistics and weights that differ from those at the start, and from domain to domain."""
    rng = np.random.default_rng(seed)
    for layer in model.layers:
        for variable in layer.variables:
            change = rng.uniform(0.05, 0.3, variable.shape).astype(np.float32)
            variable.assign_add(change)


def inputs(spec, domains, seed=0):
    rng = np.random.default_rng(seed)
    made = {}
    for domain in domains:
        made[f"{domain}_x"] = rng.standard_normal((2, *SHAPE, len(spec["inputs"]))).astype("f4")
        made[f"{domain}_mask"] = (rng.random((2, *SHAPE, 1)) < 0.8).astype("f4")
    return made


def call(model, given):
    return {k: keras.ops.convert_to_numpy(v) for k, v in model(given, training=False).items()}


def test_convolutions_are_shared_and_norms_are_not():
    model, _ = network()
    convolutions = [x for x in model.layers if isinstance(x, (keras.layers.Conv3D, JoinedConv3D))]
    norms = [x for x in model.layers if isinstance(x, keras.layers.BatchNormalization)]
    assert len(convolutions) == 3 + 2 + 1  # down, up, last
    assert len(norms) == 2 * 5
    assert {x.momentum for x in norms} == {0.8}
    assert all(x.kernel.shape[:3] == (3, 3, 3) for x in convolutions)
    assert [model.get_layer(f"down{d}_0_conv").filters for d in range(3)] == [3, 6, 12]
    single, _ = network(("target",))
    per_norm = sum(int(np.prod(v.shape)) for x in norms for v in x.variables) // 2
    assert model.count_params() - single.count_params() == per_norm


def test_the_default_is_the_network_of_2020():
    spec = make_spec({})
    assert grid_multiple(spec) == 16
    model = build_unet(spec)
    assert [model.get_layer(f"down{d}_0_conv").filters for d in range(5)] == [24, 48, 96, 192, 384]
    assert sum(isinstance(x, (keras.layers.Conv3D, JoinedConv3D)) for x in model.layers) == 10
    assert sum(isinstance(x, keras.layers.BatchNormalization) for x in model.layers) == 18


def test_domains_differ_by_their_norms_alone():
    model, spec = network()
    given = inputs(spec, ("source",))
    given |= {k.replace("source", "target"): v for k, v in given.items()}
    out = call(model, given)
    np.testing.assert_allclose(out["source_chi"], out["target_chi"], atol=1e-6)
    disturb(model)
    out = call(model, given)
    assert np.abs(out["source_chi"] - out["target_chi"]).max() > 1e-3


def test_output_is_masked_and_of_the_size_of_its_input():
    model, spec = network()
    disturb(model)
    given = inputs(spec, ("source", "target"))
    out = call(model, given)
    assert set(out) == {"source_chi", "target_chi"}
    for domain in ("source", "target"):
        chi = out[f"{domain}_chi"]
        assert chi.shape == (2, *SHAPE, 1)
        assert chi.dtype == np.float32
        assert not chi[given[f"{domain}_mask"] == 0].any()
        assert chi.any()


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("architecture", ["unet", "nonlocal_gated"])
def test_every_network_is_the_same_from_its_file(tmp_path, norm, architecture):
    model, spec = network(norm=norm, architecture=architecture, convs_per_level=2)
    disturb(model)
    given = inputs(spec, ("source", "target"))
    out = call(model, given)
    path = tmp_path / "weights.h5"
    save_network(model, spec, path, {"note": (1, 2)})
    assert read_spec(path) == spec
    assert [p.name for p in tmp_path.iterdir()] == ["weights.h5"]
    for domain in ("source", "target"):
        twin, read = load_network(path, (domain,))
        assert read == spec
        one = {k: v for k, v in given.items() if k.startswith(domain)}
        np.testing.assert_array_equal(call(twin, one)[f"{domain}_chi"], out[f"{domain}_chi"])


def test_a_missing_domain_takes_the_norms_of_the_source(tmp_path):
    model, spec = network(("source",))
    disturb(model)
    save_network(model, spec, tmp_path / "w.h5")
    twin, _ = load_network(tmp_path / "w.h5")
    given = inputs(spec, ("source",))
    out = call(twin, {k.replace("source", "target"): v for k, v in given.items()})
    np.testing.assert_array_equal(out["target_chi"], call(model, given)["source_chi"])


def test_half_precision_halves_the_file(tmp_path):
    model, spec = network(filters=8)
    disturb(model)
    for dtype in ("float32", "float16"):
        save_network(model, spec, tmp_path / f"{dtype}.h5", dtype=dtype)
    sizes = [(tmp_path / f"{d}.h5").stat().st_size for d in ("float16", "float32")]
    assert sizes[0] < 0.7 * sizes[1]
    assert file_hash(tmp_path / "float16.h5") != file_hash(tmp_path / "float32.h5")
    given = inputs(spec, ("target",))
    exact = call(load_network(tmp_path / "float32.h5")[0], given)["target_chi"]
    rounded = call(load_network(tmp_path / "float16.h5")[0], given)["target_chi"]
    assert np.abs(rounded - exact).max() < 0.01 * np.abs(exact).max()
    with h5py.File(tmp_path / "float16.h5") as file:
        kernel = keras.ops.convert_to_numpy(model.get_layer("last").kernel)
        np.testing.assert_array_equal(file["last/kernel"][()], kernel.astype(np.float16))


@pytest.mark.parametrize("residual", [None, "tikhonov"])
def test_without_bias_and_norm_the_network_is_homogeneous(residual):
    names = ["field", "tikhonov"]
    keys = {"norm": "none", "use_bias": False, "inputs": names, "residual": residual}
    model, spec = network(("target",), **keys)
    disturb(model)
    given = inputs(spec, ("target",))
    once = call(model, given)["target_chi"]
    twice = call(model, given | {"target_x": 3 * given["target_x"]})["target_chi"]
    np.testing.assert_allclose(twice, 3 * once, rtol=1e-4, atol=1e-4 * np.abs(once).max())


def test_a_residual_network_begins_with_its_channel():
    model, spec = network(("target",), inputs=["field", "mask", "tv"], residual="tv")
    given = inputs(spec, ("target",))
    out = call(model, given)["target_chi"]
    np.testing.assert_array_equal(out, given["target_x"][..., 2:] * given["target_mask"])


def test_the_residual_channel_keeps_its_precision_in_half_precision():
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model, spec = network(("target",), inputs=["field", "mask", "tv"], residual="tv")
        given = inputs(spec, ("target",))
        out = call(model, given)["target_chi"]
        assert model.get_layer("down0_0_conv").compute_dtype == "bfloat16"
    finally:
        keras.config.set_dtype_policy("float32")
    np.testing.assert_array_equal(out, given["target_x"][..., 2:] * given["target_mask"])


def test_instance_norm_is_of_each_channel():
    keys = {"norm": "instance", "use_bias": False, "filters": 2, "depth": 1}
    model, spec = network(("target",), **keys)
    given = inputs(spec, ("target",))
    norm = keras.Model(model.input, model.get_layer("down0_0_norm").output)
    out = keras.ops.convert_to_numpy(norm(given))
    np.testing.assert_allclose(out.mean((1, 2, 3)), 0, atol=1e-4)
    np.testing.assert_allclose(out.std((1, 2, 3)), 1, atol=0.02)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"architecture": "resnet"}, "expected one of unet, nonlocal_gated"),
        ({"norm": "layer"}, "expected one of domain, batch"),
        ({"inputs": []}, "inputs"),
        ({"inputs": ["field", "phase"]}, "inputs"),
        ({"residual": "tv"}, "residual 'tv'"),
        ({"residual": "mask"}, "residual 'mask'"),
        ({"filters": 0}, "at least 1"),
        ({"depth": 0}, "at least 1"),
        ({"negative_slope": 1.0}, "negative_slope 1.0"),
    ],
)
def test_bad_specifications(keys, message):
    with pytest.raises(ValueError, match=message):
        make_spec(SMALL | keys)


def test_bad_files(tmp_path):
    with pytest.raises(ValueError, match="no such weights; run step 4 first"):
        load_network(tmp_path / "none.h5")
    (tmp_path / "text.h5").write_text("not HDF5")
    with pytest.raises(ValueError, match="not a weights file"):
        load_network(tmp_path / "text.h5")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"] = 1
    with pytest.raises(ValueError, match="not a weights file"):
        load_network(tmp_path / "other.h5")


def test_weights_of_another_architecture(tmp_path):
    model, spec = network()
    save_network(model, spec, tmp_path / "w.h5")
    for keys, message in (({"filters": 4}, "expects shape"), ({"depth": 4}, "found nothing")):
        other, _ = network(**keys)
        with pytest.raises(ValueError, match=f"weights of another architecture: .*{message}"):
            fill_network(other, tmp_path / "w.h5")


PLAIN = {"norm": "none", "inputs": ["field", "mask"]}
GROWN = PLAIN | {"inputs": ["field", "tikhonov", "mask"], "convs_per_level": 3}


@pytest.mark.parametrize("use_bias", [True, False])
def test_a_network_grows_without_a_change_of_its_function(tmp_path, use_bias):
    small, spec = network(**PLAIN, use_bias=use_bias)
    disturb(small)
    save_network(small, spec, tmp_path / "small.h5")
    large, larger = network(**GROWN, use_bias=use_bias)
    before = inputs(larger, ("source", "target"))
    known = {k: v[..., [0, 2]] if k.endswith("_x") else v for k, v in before.items()}
    disturb(large, seed=3)
    warm_start(large, larger, tmp_path / "small.h5")
    for name, x in call(small, known).items():
        np.testing.assert_allclose(call(large, before)[name], x, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("architecture", ["unet", "nonlocal_gated"])
def test_inputs_grow_with_any_norm_and_architecture(tmp_path, architecture):
    keys = {"norm": "domain", "architecture": architecture}
    small, spec = network(("source",), **keys)
    disturb(small)
    save_network(small, spec, tmp_path / "small.h5")
    large, larger = network(**keys, inputs=["field", "tikhonov", "mask"])
    warm_start(large, larger, tmp_path / "small.h5")
    before = inputs(larger, ("source", "target"))
    before["target_x"], before["target_mask"] = before["source_x"], before["source_mask"]
    known = {"source_x": before["source_x"][..., [0, 2]], "source_mask": before["source_mask"]}
    expected = call(small, known)["source_chi"]
    for x in call(large, before).values():
        np.testing.assert_allclose(x, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "keys",
    [
        {"filters": 4},
        {"inputs": ["field", "tikhonov"]},
        {"norm": "batch", "convs_per_level": 2},
        {"negative_slope": 0.1, "convs_per_level": 2},
        {"shuffle": 2},
        {"architecture": "nonlocal_gated"},
    ],
    ids=str,
)
def test_a_network_cannot_grow_into_every_other(tmp_path, keys):
    small, spec = network(**PLAIN | {"norm": keys.get("norm", "none")})
    save_network(small, spec, tmp_path / "small.h5")
    large, larger = network(**PLAIN | keys)
    with pytest.raises(ValueError, match="weights of another architecture"):
        warm_start(large, larger, tmp_path / "small.h5")


def test_an_old_keras_json_does_no_harm(tmp_path):
    """Settings of other projects: channels first, half precision."""
    settings = {"image_data_format": "channels_first", "floatx": "float16", "backend": "tensorflow"}
    (tmp_path / "keras.json").write_text(json.dumps(settings))
    code = (
        "import network_model.quiet, keras; from network_model.unet import build_unet, make_spec;"
        "model = build_unet(make_spec({'depth': 2, 'filters': 2}));"
        "print(model.get_layer('last').dtype, keras.config.image_data_format())"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False,
        env=os.environ | {"KERAS_HOME": str(tmp_path), "KERAS_BACKEND": "tensorflow"},
    )  # fmt: skip
    assert run.stdout == "float32 channels_last\n", run.stderr


def test_a_slope_keeps_negative_features_alive():
    model, spec = network(("target",), norm="none", use_bias=False, negative_slope=0.1)
    given = inputs(spec, ("target",))
    plain, other = network(("target",), norm="none", use_bias=False)
    assert other["negative_slope"] == 0
    plain.set_weights(model.get_weights())
    assert np.abs(call(model, given)["target_chi"] - call(plain, given)["target_chi"]).max() > 1e-4


def test_on_half_the_grid_a_network_is_homogeneous_and_sees_twice_as_far():
    keys = {"shuffle": 2, "norm": "none", "use_bias": False, "negative_slope": 0.1, "depth": 2}
    model, spec = network(("target",), **keys)
    assert grid_multiple(spec) == 4
    given = inputs(spec, ("target",))
    chi = call(model, given)["target_chi"]
    assert chi.shape == (2, *SHAPE, 1)
    twice = given | {"target_x": 2 * given["target_x"]}
    np.testing.assert_allclose(call(model, twice)["target_chi"], 2 * chi, rtol=1e-4, atol=1e-5)


def test_a_linear_path_begins_at_nothing_and_carries_the_inputs(tmp_path):
    keys = {"shuffle": 2, "norm": "none", "negative_slope": 0.1, "depth": 2}
    small, spec = network(("source", "target"), **keys)
    save_network(small, spec, tmp_path / "small.h5")
    large, larger = network(("source", "target"), **keys, linear_path=True)
    disturb(large, seed=3)
    warm_start(large, larger, tmp_path / "small.h5")
    given = inputs(larger, ("source", "target"))
    before = call(small, given)
    for name, x in call(large, given).items():
        np.testing.assert_allclose(x, before[name], rtol=1e-6, atol=1e-6)
    weights = np.array([2.0, -1.0], np.float32)
    large.get_layer("linear_path").kernel.assign(weights[:, None])
    for name, x in call(large, given).items():
        domain = name.removesuffix("_chi")
        added = given[f"{domain}_x"] @ weights[:, None] * given[f"{domain}_mask"]
        np.testing.assert_allclose(x, before[name] + added, rtol=1e-5, atol=1e-5)


def test_a_linear_path_cannot_be_lost(tmp_path):
    small, spec = network(norm="none", linear_path=True)
    save_network(small, spec, tmp_path / "small.h5")
    large, larger = network(norm="none")
    with pytest.raises(ValueError, match="weights of another architecture"):
        warm_start(large, larger, tmp_path / "small.h5")


@pytest.mark.parametrize("linear_path", [False, True])
def test_regrouped_inputs_grow_without_a_change_of_the_function(tmp_path, linear_path):
    keys = {"shuffle": 2, "norm": "none", "depth": 2, "negative_slope": 0.1}
    small, spec = network(("target",), **keys, linear_path=linear_path)
    disturb(small)
    save_network(small, spec, tmp_path / "small.h5")
    wide = ["field", "tikhonov", "mask"]
    large, larger = network(("target",), **keys, linear_path=linear_path, inputs=wide)
    warm_start(large, larger, tmp_path / "small.h5")
    given = inputs(larger, ("target",))
    known = given | {"target_x": given["target_x"][..., [0, 2]]}
    expected = call(small, known)["target_chi"]
    np.testing.assert_allclose(call(large, given)["target_chi"], expected, rtol=1e-4, atol=1e-4)


def test_more_filters_do_not_change_the_function(tmp_path):
    keys = {"shuffle": 2, "norm": "none", "use_bias": False, "negative_slope": 0.1, "depth": 2}
    small, spec = network(("target",), **keys, convs_per_level=2)
    disturb(small)
    save_network(small, spec, tmp_path / "small.h5")
    large, larger = network(("target",), **keys, convs_per_level=2, filters=7)
    warm_start(large, larger, tmp_path / "small.h5")
    given = inputs(larger, ("target",))
    expected = call(small, given)["target_chi"]
    found = call(large, given)["target_chi"]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
    kernel = large.get_layer("up0_0_conv").get_weights()[0]
    assert not np.allclose(kernel[..., :3, :3], kernel[..., 3:6, :3])  # copies part ways


def test_filters_grow_where_nothing_else_does(tmp_path):
    small, spec = network(("target",))
    save_network(small, spec, tmp_path / "small.h5")
    large, larger = network(("target",), filters=5)
    with pytest.raises(ValueError, match="filters may grow"):
        warm_start(large, larger, tmp_path / "small.h5")


@pytest.mark.gpu
@pytest.mark.parametrize("architecture", ["unet", "nonlocal_gated"])
def test_gpu_gives_the_same_map(architecture):
    if not gpu_present():
        pytest.skip("no GPU")
    found, weights = {}, None
    for device in ("cpu", "gpu"):
        with keras.device(f"{device}:0"):
            model, spec = network(("target",), architecture=architecture)
            weights = weights or model.get_weights()  # PyTorch draws others on another device
            model.set_weights(weights)
            found[device] = call(model, inputs(spec, ("target",)))["target_chi"]
    # Convolutions round to 10 bits (TF32) where the driver is left its way.
    np.testing.assert_allclose(found["gpu"], found["cpu"], atol=5e-3 * np.abs(found["cpu"]).max())
