"""Inference: any size, nothing cut off, tiles equal to the whole."""

import dataclasses
import itertools
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import ndimage

import network_model.quiet  # noqa: F401

# isort: split
import keras
from scans import INVERSION, KERAS_ON_NUMPY, PLAIN, VOXEL, make_network, make_scan

from network_model import inference
from network_model.align import views_of
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
from network_model.refine import flat_share, structured_share, towards_data
from network_model.scaling import CHI_SCALE
from network_model.subject import make_subject
from network_model.unet import load_network, make_spec, read_spec, save_network
from training_data.channels import TV_ITERATIONS, make_channels
from training_data.dipole import field_inside, forward_field
from training_data.inversion import noise_weight, tv_admm
from training_data.noise import estimate_noise
from training_data.volume import uncrop

pytestmark = KERAS_ON_NUMPY
SHALLOW = {"filters": 3, "depth": 2}
SHUFFLED = {"filters": 4, "depth": 2, "shuffle": 2}


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("networks")
    configs = {"plain": PLAIN, "inversion": INVERSION, "shallow": SHALLOW, "shuffled": SHUFFLED}
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


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("config", [PLAIN, PLAIN | {"norm": "none", "tile": 16}])
def test_networks_see_b0_along_the_third_axis(tmp_path, axis, config):
    model, spec = make_network(tmp_path / "network.h5", config)
    straight = subject_of((23, 31, 26))
    b0_dir = np.array(straight.b0_dir)
    b0_dir[[axis, 2]] = b0_dir[[2, axis]]
    turned = {
        name: np.ascontiguousarray(getattr(straight, name).swapaxes(axis, 2))
        for name in ("field", "mask", "weight")
    }
    turned = dataclasses.replace(straight, **turned, b0_dir=b0_dir)
    for mirrors in (False, True):
        found = predict(model, spec, turned, mirrors=mirrors).swapaxes(axis, 2)
        expected = predict(model, spec, straight, mirrors=mirrors)
        np.testing.assert_allclose(found, expected, atol=1e-6)
        assert np.abs(expected).max() > 1e-3


def test_a_map_made_on_a_coarser_grid_lies_where_the_input_lies():
    shape, seen = (34, 45, 29), []
    place = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)
    mask = (((place - (16, 22, 14)) / (14, 19, 12)) ** 2).sum(-1) < 1
    blobs = [((12, 20, 10), 3.0), ((20, 26, 17), 2.5), ((15, 12, 14), 4.0)]
    smooth = sum(np.exp(-((place - c) ** 2).sum(-1) / (2 * s**2)) for c, s in blobs)
    x = np.stack([smooth * mask, mask], -1).astype(np.float32)

    def answer(given, inside):
        seen.append(given.shape)
        assert not given[inside == 0].any()
        assert given.dtype == inside.dtype == np.float32
        return given[..., 0]

    found = inference.on_coarser_grid(answer, x, mask.astype(np.float32), 8, 1.2)
    assert seen == [(32, 40, 32, 2)]
    assert found.dtype == np.float32
    assert not found[~mask].any()
    deep = ndimage.binary_erosion(mask, iterations=4)
    assert np.abs(found - smooth)[deep].max() < 0.03


def test_the_last_network_sees_structured_errors_on_a_coarser_grid_too(tmp_path, monkeypatch):
    make_network(tmp_path / "first.h5", INVERSION)
    keys = PLAIN | {"norm": "none", "tile": 16, "inputs": ["field", "first"]}
    keys |= {"firstFile": str(tmp_path / "first.h5")}
    make_network(tmp_path / "last.h5", keys, seed=2)
    config = keys | {"structured_file": "last.h5"}
    make_network(tmp_path / "third.h5", config, seed=1)
    model, spec = load_network(tmp_path / "third.h5")
    subject = dataclasses.replace(subject_of((23, 31, 26)), voxel_size=(0.9, 1.0, 1.08))
    calls = []

    def other(answer, x, mask, multiple, edge):
        calls.append((x.shape, multiple, edge))
        return answer(x, mask) + np.float32(0.3) * mask

    monkeypatch.setattr(inference, "on_coarser_grid", other)
    for structured, mirrors, times in ((1.0, False, 0), (0.4, True, 0), (1.0, True, 1)):
        calls.clear()
        monkeypatch.setattr(inference, "structured_of", lambda *_, share=structured: share)
        chi = predict(model, spec, subject, mirrors=mirrors)
        assert len(calls) == times
    assert calls[0][1:] == (inference.grid_multiple(spec), inference.COARSER)
    plain = predict(model, spec, subject, coarser=False, mirrors=True)
    assert len(calls) == 1
    added = inference.COARSER_SHARE * 0.3 / CHI_SCALE
    np.testing.assert_allclose((chi - plain)[subject.mask], added, rtol=1e-3)
    calls.clear()
    predict(model, spec, dataclasses.replace(subject, voxel_size=(1, 1, 1.1)), mirrors=True)
    assert not calls  # 1.32 mm, and 1.3 is the longest edge that was trained
    # Cubes are another grid already.
    views = views_of(subject, spec["inputs"], choice="both")
    calls.clear()
    inference.predict_views(model, spec, views[:1], mirrors=True)
    assert len(calls) == 1
    inference.predict_views(model, spec, views, mirrors=True)
    assert len(calls) == 1


@pytest.mark.parametrize("flat", [0.0, 0.4, 1.0])
def test_views_are_averaged_on_the_scans_own_grid(tmp_path, monkeypatch, flat):
    keys = INVERSION | {"inputs": ["field", "mask", "tv"], "residual": "tv"}
    model, spec = make_network(tmp_path / "tv.h5", keys)
    subject = subject_of((23, 31, 26))
    own, cubes = views = views_of(subject, spec["inputs"], choice="both")
    monkeypatch.setattr(inference, "flat_share", lambda *_: flat)
    chi, structured, share = inference.predict_views(model, spec, views)
    parts = predict(model, spec, subject), cubes.back(predict(model, spec, cubes.subject))
    assert share == pytest.approx(0.5 * (1 - flat * (1 - structured)))
    np.testing.assert_allclose(chi, (1 - share) * parts[0] + share * parts[1], atol=1e-6)
    assert np.abs(parts[0] - parts[1]).max() > 1e-3
    assert np.all(chi[~subject.mask] == 0)
    geometry = (subject.field, subject.mask, subject.voxel_size, subject.b0_dir)
    assert structured == pytest.approx(structured_share(*geometry))
    alone = inference.predict_views(model, spec, [cubes])
    assert alone[1:] == (None, 1)  # not of the scan's own grid
    np.testing.assert_array_equal(alone[0], parts[1])
    # What the scan's own grid needs is not enough for the finer one.
    assert inference.affordable(spec, views, None) == views
    assert inference.affordable(spec, views, memory_for(spec, cubes.subject, 1)) == views
    (left,) = inference.affordable(spec, views, BASE_GB)
    assert (left.share, left.subject) == (1, own.subject)


def test_networks_are_given_a_field_that_is_mended_beside_strong_sources():
    spec = {"inputs": ["field", "mask", "tv"]}
    subject = subject_of((33, 35, 29))
    same, known = inference.mended(spec, subject, {})
    assert same is subject
    geometry = (subject.mask, subject.voxel_size, subject.b0_dir)
    expected = make_channels(subject.field, *geometry, ["tv"])["tv"]
    np.testing.assert_array_equal(known["tv"], expected)
    ball = np.zeros(subject.mask.shape, np.float32)
    ball[14:18, 15:19, 12:16] = 2
    field = (subject.field + forward_field(ball, *geometry[1:])) * subject.mask
    field[16, 17, 14] += 0.5
    given = dataclasses.replace(subject, field=field)
    changed, known = inference.mended(spec, given, {inference.SHARE: 0.0})
    assert known == {inference.SHARE: 0.0}  # its inversions are to be made anew
    assert abs(changed.field[16, 17, 14] - field[16, 17, 14] + 0.5) < 0.2
    np.testing.assert_array_equal(changed.field[:4], field[:4])
    plain = {"inputs": ["field", "mask"]}
    assert inference.mended(plain, given, {}) == (given, {})
    kept, known = inference.mended(spec, given, {inference.SHARE: 1.0})
    assert kept is given
    assert known.keys() == {inference.SHARE, "tv"}


def test_mirrors_are_the_mean_over_all_mirror_images(networks):
    model, spec = networks["plain"]
    subject = subject_of((23, 31, 26))
    x, mask, box = inference.network_volume(spec, subject)
    total = 0
    for axes in ((), (0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2)):
        given = {
            "target_x": np.flip(x, axes)[None],
            "target_mask": np.flip(mask, axes)[None, ..., None],
        }
        out = np.asarray(model(given, training=False)["target_chi"])[0, ..., 0]
        total = total + np.flip(out, axes) / 8
    expected = uncrop(total / CHI_SCALE, box, subject.mask.shape)
    chi = predict(model, spec, subject, mirrors=True)
    np.testing.assert_allclose(chi, expected, atol=1e-6)
    assert np.abs(chi - predict(model, spec, subject)).max() > 1e-4


def test_a_second_network_is_given_the_first_ones_map(networks, tmp_path):
    first = networks["inversion"]
    save_network(*first, tmp_path / "first.h5")
    keys = {"inputs": ["field", "structured", "first"], "residual": "first", "filters": 2}
    small = {"depth": 2, "norm": "none", "firstFile": str(tmp_path / "first.h5")}
    make_network(tmp_path / "second.h5", keys | small)
    (tmp_path / "first.h5").unlink()  # the second one's file holds it
    model, spec = load_network(tmp_path / "second.h5")
    assert spec["first"]["group"] == "/first"
    subject = subject_of((23, 31, 26))
    channels = inference.scan_channels(spec, subject)
    geometry = (subject.field, subject.mask, subject.voxel_size, subject.b0_dir)
    structured = inference.structured_of(subject, channels)
    expected = towards_data(predict(*first, subject), *geometry, structured=structured)
    np.testing.assert_allclose(channels["first"], expected, atol=1e-6)
    mirrored = inference.scan_channels(spec, subject, mirrors=True)["first"]
    np.testing.assert_allclose(mirrored, expected, atol=1e-6)  # mirror images of tiles alone
    # A third one on top of the second.
    make_network(tmp_path / "third.h5", keys | small | {"firstFile": str(tmp_path / "second.h5")})
    model, spec = load_network(tmp_path / "third.h5")
    assert read_spec(tmp_path / "third.h5")["first"]["group"] == "/first"
    assert np.isfinite(predict(model, spec, subject)).all()
    assert read_spec(tmp_path / "third.h5", "/first")["first"]["group"] == "/first/first"


def test_total_variations_are_guided_by_the_first_map_of_each_network(networks, tmp_path):
    save_network(*networks["inversion"], tmp_path / "first.h5")
    keys = {"inputs": ["field", "tv", "first", "corrected", "guided"], "filters": 2, "depth": 2}
    for name, first in (("second", "first"), ("third", "second")):
        file = {"firstFile": str(tmp_path / f"{first}.h5")}
        make_network(tmp_path / f"{name}.h5", keys | {"norm": "none"} | file)
    subject = subject_of((23, 31, 26))
    geometry = (subject.field, subject.mask, subject.voxel_size, subject.b0_dir)
    noise = estimate_noise(*geometry)
    weight, splits = 4 * noise_weight(noise), {}
    fewer = 10 * min(max(0.003 / noise, 0.6), 1.5)
    # For χ the one of the third network goes on from that of the second, for the correction it
    # begins anew.
    for name, iterations in (("second", TV_ITERATIONS), ("third", 6)):
        _, spec = load_network(tmp_path / f"{name}.h5")
        channels = inference.scan_channels(spec, subject)
        chi = channels["first"]
        options = {"iterations": iterations, "guide": chi, "splits": splits}
        guided = tv_admm(subject.field, *geometry[1:], weight, **options)
        np.testing.assert_allclose(channels["guided"], guided, atol=1e-6)
        np.testing.assert_array_equal(channels["splits"]["chi"], splits["chi"])
        left = subject.field - field_inside(chi, *geometry[1:])
        number = round(fewer + flat_share(chi, subject.mask) * (15 - fewer))
        guided = tv_admm(left, *geometry[1:], weight, iterations=number, guide=chi)
        np.testing.assert_allclose(channels["corrected"], chi + guided, atol=1e-6)
    assert list(make_spec(keys | file)["inputs"]) == keys["inputs"]
    with pytest.raises(ValueError, match=r"\['guided'\] are guided by the map 'first'; add it"):
        make_spec({"inputs": ["field", "guided"]})


@pytest.mark.parametrize("structured", [0.0, 1.0])
def test_a_map_that_is_an_input_has_fewer_tiles(networks, tmp_path, monkeypatch, structured):
    keys = {"filters": 2, "depth": 2, "norm": "none", "tile": 16}
    make_network(tmp_path / "first.h5", keys | {"inputs": ["field", "tv"]})
    keys |= {"inputs": ["field", "tv", "first"], "firstFile": str(tmp_path / "first.h5")}
    model, spec = make_network(tmp_path / "second.h5", keys)
    overlaps = []

    def tiles(model, x, mask, edge, overlap, mirrors):
        overlaps.append(overlap)
        return mask

    monkeypatch.setattr(inference, "_small_tiles", tiles)
    monkeypatch.setattr(inference, "structured_of", lambda *_: structured)
    predict(model, spec, subject_of((23, 31, 26)))
    coarse, fine = inference.TILE_OVERLAP
    assert overlaps == [coarse, fine if structured else coarse]


@pytest.mark.parametrize(("first_share", "flat"), [(1.0, 0.0), (0.5, 0.0), (0.5, 0.3), (0.5, 1.0)])
def test_the_first_map_has_its_share_where_errors_are_white(
    networks, tmp_path, monkeypatch, first_share, flat
):
    save_network(*networks["inversion"], tmp_path / "first.h5")
    keys = {"inputs": ["field", "first"], "filters": 2, "depth": 2, "norm": "none"}
    keys |= {"first_share": first_share, "firstFile": str(tmp_path / "first.h5")}
    make_network(tmp_path / "second.h5", keys)
    model, spec = load_network(tmp_path / "second.h5")
    subject = subject_of((23, 31, 26))
    monkeypatch.setattr(inference, "towards_data", lambda chi, *_, **__: chi)
    monkeypatch.setattr(inference, "flat_share", lambda *_: flat)
    chi = {}
    for structured in (0.0, 0.4, 1.0):
        monkeypatch.setattr(inference, "structured_of", lambda *_, share=structured: share)
        chi[structured] = predict(model, spec, subject, mirrors=True)
    first = inference.scan_channels(spec, subject, mirrors=True)["first"]
    share = first_share + (1 - first_share) * flat
    white = share * first + (1 - share) * chi[1.0]
    np.testing.assert_allclose(chi[0.0], white, atol=1e-6)
    np.testing.assert_allclose(chi[0.4], 0.6 * white + 0.4 * chi[1.0], atol=1e-6)
    assert np.abs(chi[1.0] - chi[0.0]).max() > 1e-3


@pytest.mark.parametrize("inputs", [["field", "first"], ["field", "tikhonov", "first", "guided"]])
def test_two_networks_correct_the_map_where_errors_are_structured(
    networks, tmp_path, monkeypatch, inputs
):
    save_network(*networks["inversion"], tmp_path / "first.h5")
    keys = {"filters": 2, "depth": 2, "norm": "none", "firstFile": str(tmp_path / "first.h5")}
    given = ["field", "tv", "first", "guided"]
    make_network(tmp_path / "second.h5", keys | {"inputs": given, "first_share": 0.5})
    other, other_spec = make_network(tmp_path / "other.h5", keys | {"inputs": inputs}, seed=1)
    model, spec = load_network(tmp_path / "second.h5")
    subject = subject_of((23, 31, 26))
    geometry = (subject.mask, subject.voxel_size, subject.b0_dir)
    monkeypatch.setattr(inference, "flat_share", lambda *_: 0.0)
    for structured in (0.0, 0.1, 1.0):
        monkeypatch.setattr(inference, "structured_of", lambda *_, share=structured: share)
        first = inference.scan_channels(spec, subject)["first"]
        own, splits = spec | {"first_share": 0.0}, {}
        channels = inference.scan_channels(own, subject, known={"splits": splits})
        chi = predict(model, own, subject, channels=channels)
        for network, its in ((model, own), (other, other_spec)):
            step = towards_data(chi, subject.field, *geometry, structured=structured)
            known = {"first": step, "splits": splits}
            channels = inference.scan_channels(its, subject, known=known)
            corrected = predict(network, its, subject, channels=channels)
            chi = chi + min(structured / 0.3, 1) * (corrected - chi)
        expected = chi + 0.5 * (1 - structured) * (first - chi)
        place = {"path": str(tmp_path / "other.h5"), "group": "/"}
        found = predict(model, spec | {"structured": place}, subject)
        np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("keys", [{"first_share": 1.0}, {"first_share": -0.1}])
def test_a_share_without_a_first_map_is_refused(keys):
    with pytest.raises(ValueError, match=r"first_share .*: expected 0, or with the input 'first'"):
        make_spec(keys)


@pytest.mark.parametrize(("overlap", "stride"), [(1 / 2, 8), (3 / 8, 10)])
@pytest.mark.parametrize("shape", [(37, 22, 60), (16, 33, 48)])
def test_small_tiles_cover_every_voxel(shape, overlap, stride):
    """A network that gives its first input back does so through tiles, whatever their mirrors."""
    x = keras.Input((None, None, None, 2), name="target_x")
    mask = keras.Input((None, None, None, 1), name="target_mask")
    model = keras.Model({"target_x": x, "target_mask": mask}, {"target_chi": x[..., :1] * mask})
    rng = np.random.default_rng(0)
    given = rng.standard_normal((*shape, 2)).astype(np.float32)
    inside = np.ones(shape, np.float32)
    for mirrors in (False, True):
        chi = inference._small_tiles(model, given, inside, 16, overlap, mirrors)
        np.testing.assert_allclose(chi, given[..., 0], atol=1e-4)
    for size in shape:
        starts = inference.overlapping_starts(size, 16, overlap)
        assert starts[0] == 0
        assert starts[-1] == max(size - 16, 0)
        assert all(0 < b - a <= stride for a, b in itertools.pairwise(starts))


def test_every_second_tile_has_x_and_y_exchanged():
    """A network that moves everything by one voxel along x does so along y in those tiles."""
    x = keras.Input((None, None, None, 1), name="target_x")
    mask = keras.Input((None, None, None, 1), name="target_mask")
    moved = {"target_chi": keras.ops.roll(x, 1, axis=1) * mask}
    model = keras.Model({"target_x": x, "target_mask": mask}, moved)
    given = np.random.default_rng(0).standard_normal((24, 24, 24, 1)).astype(np.float32)
    inside = np.ones(given.shape[:3], np.float32)
    chi = inference._small_tiles(model, given, inside, 16, 1 / 2, True)
    first, second = chi[1:8, :8, :8], chi[16:, 1:8, :8]  # seen by one tile each
    np.testing.assert_allclose(first, given[:7, :8, :8, 0], atol=1e-5)
    np.testing.assert_allclose(second, given[16:, :7, :8, 0], atol=1e-5)
    chi = inference._small_tiles(model, given, inside, 16, 1 / 2, False)
    np.testing.assert_allclose(chi[16:, :8, :8], given[15:-1, :8, :8, 0], atol=1e-5)


def test_a_scan_of_one_tile_is_seen_in_its_mirror_images(networks, tmp_path):
    model, spec = make_network(tmp_path / "tiles.h5", {"filters": 3, "depth": 3, "tile": 32})
    x, mask, _ = inference.network_volume(spec, subject_of((23, 31, 26)))
    x, mask = x[:16, :16, :16], mask[:16, :16, :16]
    wide = [np.pad(v, [(0, 16)] * 3 + [(0, 0)] * (v.ndim - 3)) for v in (x, mask)]
    expected = np.zeros(wide[1].shape, np.float32)
    for flip in itertools.product((0, 1), repeat=3):
        axes = tuple(np.flatnonzero(flip))
        seen = [np.flip(v, axes) for v in wide]
        turned = [v.swapaxes(0, 1) if sum(flip) % 2 else v for v in seen]
        out = inference._whole(model, *map(np.ascontiguousarray, turned))
        expected += np.flip(out.swapaxes(0, 1) if sum(flip) % 2 else out, axes) / 8
    chi = inference._small_tiles(model, x, mask, 32, 3 / 8, True)
    np.testing.assert_allclose(chi, expected[:16, :16, :16], atol=1e-4)


def test_a_network_of_tiles_sees_them_as_its_patches(networks, tmp_path):
    keys = {"filters": 3, "depth": 3, "tile": 16}
    model, spec = make_network(tmp_path / "tiles.h5", keys)
    subject = subject_of((23, 31, 26))
    x, mask, box = inference.network_volume(spec, subject)
    tile = {"target_x": x[None, :16, :16, :16], "target_mask": mask[None, :16, :16, :16, None]}
    corner = np.asarray(model(tile, training=False)["target_chi"])[0, ..., 0]
    for structured, overlap in ((0.0, 3 / 8), (1.0, 1 / 2)):
        chi = inference._small_tiles(model, x, mask, 16, overlap, False)
        np.testing.assert_allclose(chi[0, 0, 0], corner[0, 0, 0], atol=1e-5)  # of one tile
        expected = uncrop(chi / CHI_SCALE, box, subject.mask.shape)
        channels = inference.scan_channels(spec, subject) | {inference.SHARE: structured}
        found = predict(model, spec, subject, channels=channels)
        np.testing.assert_allclose(found, expected, atol=1e-6)
    with pytest.raises(ValueError, match="can't be fine-tuned"):
        inference.network_to_tune(tmp_path / "tiles.h5")
    save_network(*networks["inversion"], tmp_path / "first.h5")
    keys |= {"inputs": ["field", "first"], "firstFile": str(tmp_path / "first.h5")}
    make_network(tmp_path / "second.h5", keys)
    assert inference.network_to_tune(tmp_path / "second.h5")[1]["inputs"][-1] == "tikhonov"
    with pytest.raises(ValueError, match="tile 12: expected 0 or a multiple of 8"):
        make_spec({"depth": 3, "tile": 12})


@pytest.mark.parametrize("able", [True, False])
@pytest.mark.parametrize("tile", [16, 0])
def test_networks_of_tiles_take_bfloat16_where_the_processor_has_it(
    tmp_path, monkeypatch, able, tile
):
    path, subject = tmp_path / "net.h5", subject_of((26, 30, 24))
    model, spec = make_network(path, SHUFFLED | {"tile": tile, "norm": "none", "use_bias": False})
    monkeypatch.setattr(inference, "multiplies_bfloat16", lambda: able)
    found, its_spec = inference.load_to_predict(path)
    assert found.compute_dtype == ("bfloat16" if able and tile else "float32")
    assert its_spec == read_spec(path)
    assert keras.config.dtype_policy().name == "float32"
    expected, chi = predict(model, spec, subject), predict(found, its_spec, subject)
    assert chi.dtype == np.float32
    off = np.linalg.norm(chi - expected) / np.linalg.norm(expected)
    assert off < 0.02
    assert (off > 1e-6) == (able and tile > 0)


def test_a_first_network_must_be_named():
    with pytest.raises(ValueError, match="set firstFile"):
        make_spec({"inputs": ["field", "first"]})
    mask = np.ones((8, 8, 8), bool)
    with pytest.raises(ValueError, match="made by a network"):
        make_channels(np.ones(mask.shape), mask, VOXEL, (0, 0, 1), ["first"])


def test_a_shifted_scan_gives_the_shifted_map(networks):
    model, spec = networks["inversion"]
    small = make_scan((22, 25, 19))
    wide = {k: np.pad(v, ((5, 2), (0, 7), (3, 3))) for k, v in small.items()}
    a, b = (predict(model, spec, make_subject(s["field"], s["mask"], VOXEL)) for s in (small, wide))
    np.testing.assert_allclose(np.pad(a, ((5, 2), (0, 7), (3, 3))), b, atol=1e-6)


@pytest.mark.parametrize("name", ["shallow", "shuffled"])
def test_tiles_as_wide_as_the_receptive_field_change_nothing(networks, name):
    model, spec = networks[name]
    subject = subject_of((60, 95, 52))
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


@pytest.mark.parametrize("name", ["plain", "shuffled"])
def test_receptive_radius_bounds_what_a_voxel_sees(networks, name):
    model, spec = networks[name]
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
    attentive = spec | {"architecture": "nonlocal_gated", "depth": 3}
    assert memory_estimate(attentive, (160,) * 3) > 3 * (40**6) * 4 / 2**30


def test_arrays_of_another_kind_will_do(networks):
    model, spec = networks["plain"]
    subject = subject_of((20, 20, 20))
    names = ("field", "mask", "voxel_size", "b0_dir")
    bare = SimpleNamespace(**{n: getattr(subject, n) for n in names})
    np.testing.assert_array_equal(predict(model, spec, bare), predict(model, spec, subject))
