"""Inference: any size, nothing cut off, tiles equal to the whole."""

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
from scans import INVERSION, KERAS_ON_NUMPY, PLAIN, VOXEL, make_network, make_scan

from network_model import inference
from network_model.inference import (
    BASE_GB,
    BYTES_PER_VALUE,
    GIB,
    VOLUME_COPIES,
    check_training_memory,
    memory_estimate,
    predict,
    receptive_radius,
    tile_shape,
    tile_starts,
)
from network_model.scaling import CHI_SCALE
from network_model.subject import make_subject

pytestmark = KERAS_ON_NUMPY
SHALLOW = {"filters": 3, "depth": 2}


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("networks")
    configs = {"plain": PLAIN, "inversion": INVERSION, "shallow": SHALLOW}
    return {n: make_network(folder / f"{n}.h5", c) for n, c in configs.items()}


def subject_of(shape, **kwargs):
    scan = make_scan(shape, **kwargs)
    return make_subject(scan["field"], scan["mask"], VOXEL, (0, 0.3, 0.95), scan["magnitude"])


def memory_for(spec, subject, share):
    """Memory in which `share` of the whole box's forward pass fits."""
    box = inference.network_volume(spec, subject)[1].shape
    volumes = VOLUME_COPIES * BYTES_PER_VALUE * subject.mask.size / GIB
    return BASE_GB + volumes + share * memory_estimate(spec, box)


@pytest.mark.parametrize("name", ["plain", "inversion"])
def test_equals_the_network_on_the_padded_box(networks, name):
    model, spec = networks[name]
    subject = subject_of((23, 31, 26))
    chi = predict(model, spec, subject)
    x, mask, _box = inference.network_volume(spec, subject)
    direct = model({"target_x": x[None], "target_mask": mask[None, ..., None]}, training=False)
    direct = np.asarray(direct["target_chi"])[0, ..., 0] / CHI_SCALE
    assert chi.shape == subject.mask.shape
    assert chi.dtype == np.float32
    assert np.all(chi[~subject.mask] == 0)
    np.testing.assert_allclose(chi[subject.mask], direct[mask > 0], atol=1e-6)
    assert np.count_nonzero(chi) > 0.9 * subject.mask.sum()


def test_a_shifted_scan_gives_the_shifted_map(networks):
    model, spec = networks["inversion"]
    small = make_scan((22, 25, 19))
    wide = {k: np.pad(v, ((5, 2), (0, 7), (3, 3))) for k, v in small.items()}
    a, b = (predict(model, spec, make_subject(s["field"], s["mask"], VOXEL)) for s in (small, wide))
    np.testing.assert_allclose(np.pad(a, ((5, 2), (0, 7), (3, 3))), b, atol=1e-6)


def test_tiles_as_wide_as_the_receptive_field_change_nothing(networks):
    model, spec = networks["shallow"]
    subject = subject_of((60, 75, 52))
    whole = predict(model, spec, subject)
    memory = memory_for(spec, subject, 0.8)
    shape = inference.network_volume(spec, subject)[1].shape
    assert tile_shape(spec, shape, 0.8 * memory_estimate(spec, shape)) != shape
    np.testing.assert_allclose(predict(model, spec, subject, memory), whole, atol=1e-6)


def test_narrow_overlaps_stay_below_one_percent_of_the_range(networks, monkeypatch):
    monkeypatch.setattr(inference, "MAX_OVERLAP", 24)
    model, spec = networks["inversion"]
    assert 2 * receptive_radius(spec) > 24
    subject = subject_of((50, 75, 43))
    whole = predict(model, spec, subject)
    tiled = predict(model, spec, subject, memory_for(spec, subject, 0.8))
    assert 0 < np.abs(tiled - whole).max() < 0.01 * np.ptp(whole)


def test_receptive_radius_bounds_what_a_voxel_sees(networks):
    model, spec = networks["plain"]
    radius = receptive_radius(spec)
    n = 48
    x = np.zeros((1, n, 4, 4, 2), np.float32)
    mask = np.ones((1, n, 4, 4, 1), np.float32)
    changed = x.copy()
    changed[0, 24] = 50
    a, b = (
        np.asarray(model({"target_x": v, "target_mask": mask}, training=False)["target_chi"])
        for v in (x, changed)
    )
    seen = np.flatnonzero(np.abs(a - b).max((0, 2, 3, 4)) > 0)
    assert seen.min() >= 24 - radius
    assert seen.max() <= 24 + radius


@pytest.mark.parametrize(("size", "tile", "overlap"), [(160, 96, 64), (96, 96, 64), (64, 32, 16)])
def test_tiles_cover_an_axis_with_their_overlap(size, tile, overlap):
    starts = tile_starts(size, tile, overlap, 16)
    assert starts[0] == 0
    assert starts[-1] == size - tile
    assert all(s % 16 == 0 for s in starts)
    assert all(b - a <= tile - overlap for a, b in itertools.pairwise(starts))


def test_too_little_memory_is_one_clear_line(networks):
    model, spec = networks["plain"]
    subject = subject_of((40, 40, 40))
    with pytest.raises(ValueError, match="allow more"):
        predict(model, spec, subject, memory_gb=0.1)
    with pytest.raises(ValueError, match="fine-tuning this scan needs"):
        check_training_memory(spec, subject, 0.1)
    assert check_training_memory(spec, subject, None) is None


def test_arrays_of_another_kind_will_do(networks):
    model, spec = networks["plain"]
    subject = subject_of((20, 20, 20))
    names = ("field", "mask", "voxel_size", "b0_dir")
    bare = SimpleNamespace(**{n: getattr(subject, n) for n in names})
    np.testing.assert_array_equal(predict(model, spec, bare), predict(model, spec, subject))
