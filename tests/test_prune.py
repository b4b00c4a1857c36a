"""Dead levels taken out of a network: the same map; networks that need them are refused."""

import h5py
import numpy as np
import pytest
from scans import INVERSION, KERAS_ON_NUMPY, PLAIN, make_network

from network_model.pack import main as pack
from network_model.prune import main, pruned
from network_model.unet import load_network, read_spec
from network_model.weight_files import check_weights

pytestmark = KERAS_ON_NUMPY
TWO = INVERSION | {"norm": "none", "use_bias": False, "depth": 2, "convs_per_level": 2}


def kill(path, group="/"):
    """Make all that comes up from the lower level negative before its ReLU."""
    with h5py.File(path, "r+") as file:
        kernel = file[group]["down1_1_conv/kernel"]
        kernel[...] = -np.abs(kernel[...])


@pytest.fixture
def first(tmp_path):
    """A network of two levels of which the lower one is alive."""
    make_network(tmp_path / "first.h5", TWO)
    return tmp_path / "first.h5"


def output_of(path, group="/"):
    """What a network of a file makes of one grid that both it and a pruned one fit on."""
    model, spec = load_network(path, group=group)
    x = np.random.default_rng(3).normal(size=(1, 16, 20, 12, len(spec["inputs"])))
    inputs = {"target_x": x.astype(np.float32), "target_mask": np.ones((1, 16, 20, 12, 1))}
    return np.asarray(model.predict_on_batch(inputs)["target_chi"])


def test_without_dead_levels_the_map_is_the_same(first, tmp_path, capsys):
    kill(first)
    out = tmp_path / "pruned.h5"
    main([str(first), str(out)])
    spec = read_spec(out)
    assert (spec["depth"], spec["convs_per_level"]) == (1, 4)
    assert check_weights(out) in (tmp_path / "SHA256SUMS").read_text()
    counts = [load_network(path)[0].count_params() for path in (first, out)]
    assert counts[1] < counts[0]
    assert f"{counts[0]:,} → {counts[1]:,} weights" in capsys.readouterr().out
    np.testing.assert_allclose(output_of(out), output_of(first), atol=1e-5)


def test_the_innermost_of_several_networks_is_pruned(first, tmp_path):
    kill(first)
    keys = PLAIN | {"norm": "none", "inputs": ["field", "first"], "firstFile": str(first)}
    make_network(tmp_path / "second.h5", keys, seed=1)
    both, out = tmp_path / "both.h5", tmp_path / "pruned.h5"
    pack([str(both), str(first), str(tmp_path / "second.h5"), "--first-share", "0"])
    main([str(both), str(out)])
    assert read_spec(out) | {"first": None} == read_spec(both) | {"first": None}
    assert read_spec(out, "/first")["depth"] == 1
    np.testing.assert_allclose(output_of(out, "/first"), output_of(both, "/first"), atol=1e-5)
    np.testing.assert_array_equal(output_of(out), output_of(both))


def test_a_network_whose_levels_are_alive_is_refused(first, tmp_path):
    with pytest.raises(ValueError, match=r"first\.h5: the lower levels .* are alive"):
        main([str(first), str(tmp_path / "pruned.h5")])
    assert not (tmp_path / "pruned.h5").exists()


@pytest.mark.parametrize("keys", [{"use_bias": True}, {"depth": 1}, {"norm": "domain"}])
def test_what_cannot_be_pruned_is_refused(tmp_path, keys):
    make_network(tmp_path / "other.h5", TWO | keys)
    with pytest.raises(ValueError, match="without norm and bias"):
        pruned(*load_network(tmp_path / "other.h5"))


def test_the_linear_path_stays(tmp_path):
    make_network(tmp_path / "linear.h5", TWO | {"linear_path": True, "residual": None})
    kill(tmp_path / "linear.h5")
    model, spec = load_network(tmp_path / "linear.h5")
    small, _ = pruned(model, spec)
    for layer in ("linear_path", "last"):
        found, given = (m.get_layer(layer).get_weights()[0] for m in (small, model))
        np.testing.assert_array_equal(found, given)
