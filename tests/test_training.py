"""Step 4: batches that depend on seed, epoch and number alone; training, its resume, mistakes."""

import csv
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import time

import h5py
import numpy as np
import pytest

import network_model.quiet  # noqa: F401

# isort: split
import keras
from maps import write_maps
from scans import INVERSION, make_network, tilted_affine, write_scan

from configs import PROJECT_ROOT, load_config
from genRDFPatchesSyn import main as cut_patches
from network_model.callbacks import ExponentialSteps, LinearDecay, cut_rows, read_rows
from network_model.scaling import CHI_SCALE, FIELD_SCALE
from network_model.subject import make_subject
from network_model.train_model.build import compile_model, for_fit
from network_model.train_model.datagenerator import (
    DataGenerator,
    PatchFile,
    ResidentPatches,
    TargetCrops,
    flip_all,
)
from network_model.train_model.linear_start import fit_linear_path
from network_model.train_model.train import main
from network_model.unet import load_network, make_spec
from training_data.dipole import forward_field
from training_data.nifti import read_volume, write_volume
from training_data.qsmFmapCal_gpu import main as make_fields

INPUTS = ["field", "mask", "noise", "tikhonov"]
PATCH = (12, 16, 8)
TINY = {"filters": 2, "depth": 2, "verbose": 0, "batch_size": 2, "learning_rate": 3e-3}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Patches of four maps, and a scan for the target domain."""
    folder = tmp_path_factory.mktemp("data")
    write_maps(folder / "maps", 4)
    source = {"srcFolder": str(folder / "maps")}
    make_fields(load_config("step2_qsmFmapCal", []) | source | {"device": "cpu"})
    sizes = {"patch_size": PATCH, "overlap_size": (12, 16, 8), "patches_per_map": 4}
    target = {"dstFile": str(folder / "patches.h5"), "inputs": INPUTS}
    cut_patches(load_config("step3_genRDFPatchesSyn", []) | source | sizes | target)
    write_scan(folder / "scan", tilted_affine(15))
    return folder


def options(data, folder, target=True, **keys):
    config = load_config("step4_train", []) | TINY
    config |= {"datasets_path": str(data / "patches.h5"), "dstFolder": str(folder), "epochs": 3}
    if target:
        names = {"fieldFile": "field", "maskFile": "mask", "magnitudeFile": "magnitude"}
        config |= {key: str(data / f"scan/{name}.nii.gz") for key, name in names.items()}
    return config | keys


def log_of(folder):
    return read_rows(folder / "log.csv")


def same(a, b):
    """Logs of two runs: the same columns and, but for the order of sums, the same numbers."""
    assert list(a) == list(b)
    for key in a:
        np.testing.assert_allclose(a[key], b[key], rtol=1e-4, err_msg=key)


# Patches and crops


def test_patches_come_in_the_units_of_the_network(data):
    patches = PatchFile(data / "patches.h5", ["tikhonov", "field", "mask"])
    file = h5py.File(data / "patches.h5")
    x, mask, label = patches.read(5)
    assert x.shape == (*PATCH, 3)
    assert mask.shape == label.shape == (*PATCH, 1)
    assert {a.dtype for a in (x, mask, label)} == {np.dtype("float32")}
    np.testing.assert_allclose(x[..., 1], file["field"][5] * FIELD_SCALE, rtol=1e-6)
    np.testing.assert_allclose(x[..., 0], file["extra"][5][..., 1] * CHI_SCALE, rtol=1e-6)
    np.testing.assert_array_equal(x[..., 2], file["mask"][5])
    np.testing.assert_allclose(label[..., 0], file["chi"][5] * CHI_SCALE, rtol=1e-6)


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.95])
def test_no_map_is_both_trained_on_and_validated_with(data, share):
    patches = PatchFile(data / "patches.h5", ["field", "mask"])
    train, validation = patches.split(share, seed=0)
    maps = [set(patches.samples[indices]) for indices in (train, validation)]
    assert not maps[0] & maps[1]
    assert all(maps)
    assert sorted([*train, *validation]) == list(range(len(patches.samples)))
    assert any((patches.split(share, seed)[1] != validation[0]).all() for seed in range(1, 9))


def test_a_choice_of_maps(data):
    patches = PatchFile(data / "patches.h5", ["field", "mask"])
    names = ["map_0003", "map_0001", "map_0002"]
    train, validation = patches.split(0.3, 0, names)
    assert not set(train) & set(validation)
    assert set(patches.samples[[*train, *validation]]) == {n.encode() for n in names}
    with pytest.raises(ValueError, match="1 map; training needs 2"):
        patches.split(0.3, 0, names[:1])


def batches(data, epoch, target=None, **keys):
    patches = PatchFile(data / "patches.h5", ["field", "mask", "noise"])
    config = options(data, "", **keys)
    return DataGenerator(patches, np.arange(13), config, target, epoch)


def test_a_batch_depends_on_seed_epoch_and_number_alone(data):
    keys = {"augment": True, "sign_chance": 0.5}
    first, again = batches(data, 2, **keys), batches(data, 2, **keys)
    assert len(first) == 7
    assert len(first[6][0]["source_x"]) == 1  # what is left over
    np.testing.assert_array_equal(first[3][0]["source_x"], again[3][0]["source_x"])
    for other in (batches(data, 1, **keys), batches(data, 2, seed=1, **keys)):
        assert (first[3][0]["source_x"] != other[3][0]["source_x"]).any()
    seen = np.concatenate([batches(data, 0)[i][1]["source_chi"] for i in range(7)])
    everything = [PatchFile(data / "patches.h5", ["field"]).read(i)[2] for i in range(13)]
    assert sorted(x.sum() for x in seen) == pytest.approx(sorted(x.sum() for x in everything))
    assert len(batches(data, 0, steps_per_epoch=20)) == 20
    assert len(batches(data, 0, steps_per_epoch=3)) == 3


def test_threads_make_the_same_batches(data):
    keys = {"augment": True, "sign_chance": 0.5, "crop": [8, 12, 8]}
    alone, threads = batches(data, 2, **keys), batches(data, 2, **keys, workers=3)
    for i in (0, 1, 2, 6, 3, 3):  # in any order, and again
        for made, expected in zip(threads[i], alone[i], strict=True):
            for name, x in made.items():
                np.testing.assert_array_equal(x, expected[name])


@pytest.mark.parametrize(
    "keys", [{}, {"source_balance": "noise", "xsim_weight": 1.0, "workers": 3}]
)
def test_fit_is_given_the_same_batches_untuned(data, keys):
    made = batches(data, 2, augment=True, **keys)
    given = for_fit(made)
    if keras.backend.backend() == "tensorflow":
        assert not given.options().autotune.enabled  # waits at the end of each epoch
    assert len(given) == 7
    for i, batch in enumerate(given if given is not made else map(made.__getitem__, range(7))):
        assert len(batch) == len(made[i])
        for found, expected in zip(batch, made[i], strict=True):
            assert found.keys() == expected.keys()
            for name, x in found.items():
                np.testing.assert_array_equal(x, expected[name])
    assert i == 6


@pytest.mark.parametrize("inputs", [["field", "mask"], ["tikhonov", "noise", "field"], INPUTS])
@pytest.mark.parametrize("epoch", [-1, 1])
def test_patches_in_the_memory_of_the_accelerator_make_the_same_batches(data, inputs, epoch):
    keys = {"augment": True, "sign_chance": 0.5, "crop": [8, 12, 8], "xsim_weight": 1.0}
    keys |= {"source_balance": "tikhonov"} if "tikhonov" in inputs else {}
    config = options(data, "", **keys)
    made = [
        DataGenerator(kind(data / "patches.h5", inputs, config["crop"]), range(13), config, None, e)
        for kind, e in ((ResidentPatches, epoch), (PatchFile, epoch))
    ]
    for i in range(7):
        for found, expected in zip(made[0][i], made[1][i], strict=True):
            assert list(found) == list(expected)
            for name, x in found.items():
                assert keras.ops.is_tensor(x)
                np.testing.assert_allclose(x, expected[name], rtol=1e-6, err_msg=name)


@pytest.mark.parametrize("inputs", [["field", "mask"], INPUTS])
def test_what_is_not_compressed_is_read_as_memory_is(data, tmp_path, inputs):
    sizes = {"patch_size": PATCH, "overlap_size": (12, 16, 8), "patches_per_map": 4}
    keys = {"srcFolder": str(data / "maps"), "dstFile": str(tmp_path / "plain.h5")}
    keys |= {"inputs": inputs, "compression": None, "dtype": "float16"}
    cut_patches(load_config("step3_genRDFPatchesSyn", []) | sizes | keys)
    plain = PatchFile(tmp_path / "plain.h5", inputs)
    assert all(array.memory is not None for array in plain.arrays.values())
    packed = PatchFile(data / "patches.h5", inputs)
    assert all(array.memory is None for array in packed.arrays.values())
    for i in range(len(plain.samples)):
        for found, expected in zip(plain.read(i), packed.read(i), strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


def test_windows_are_cut_where_drawn_and_in_the_middle_to_validate(data):
    whole = PatchFile(data / "patches.h5", INPUTS)
    patches = PatchFile(data / "patches.h5", INPUTS, [8, 6, 8])
    assert patches.shape == (8, 6, 8)
    for found, expected in zip(patches.read(3), whole.read(3), strict=True):
        np.testing.assert_array_equal(found, expected[2:10, 5:11])
    seen = set()
    for seed in range(40):
        x = patches.read(3, np.random.default_rng(seed))[0]
        at = [(i, j) for i in range(5) for j in range(11)
              if np.array_equal(x, whole.read(3)[0][i : i + 8, j : j + 6])]  # fmt: skip
        assert len(at) == 1
        seen.update(at)
    assert {i for i, _ in seen} == set(range(5))
    assert len(seen) > 20
    for wrong in ([13, 6, 8], [8, 6], [8, 0, 8]):
        with pytest.raises(ValueError, match="at most the patches'"):
            PatchFile(data / "patches.h5", INPUTS, wrong)


def test_validation_is_spread_over_all_patches_and_as_it_is(data):
    generator = batches(data, -1, augment=True, sign_chance=1.0, validation_steps=2)
    assert len(generator) == 2
    patches = PatchFile(data / "patches.h5", ["field", "mask", "noise"])
    found = [x for i in range(2) for x in generator[i][0]["source_x"]]
    for x, index in zip(found, (0, 4, 8, 12), strict=True):
        np.testing.assert_array_equal(x, patches.read(index)[0])


def test_flips_are_of_all_arrays_and_keep_the_physics():
    shape = (12, 12, 9)
    chi = np.random.default_rng(0).standard_normal(shape, np.float32)
    field = forward_field(chi, (1, 1, 1.4), pad=False)
    seen = set()
    for seed in range(150):
        turned = flip_all([chi[..., None], field[..., None]], np.random.default_rng(seed))
        again = forward_field(np.ascontiguousarray(turned[0][..., 0]), (1, 1, 1.4), pad=False)
        np.testing.assert_allclose(turned[1][..., 0], again, atol=1e-5)
        seen.add(turned[0].tobytes())
    assert len(seen) == 16  # three flips and an exchange of x and y
    slab = np.zeros((4, 6, 5, 1))
    for seed in range(20):  # x and y of unlike length are not exchanged
        assert flip_all([slab], np.random.default_rng(seed), False)[0].shape == slab.shape


def test_the_opposite_map_has_the_opposite_field(data):
    plain = batches(data, 0)[1]
    turned = batches(data, 0, sign_chance=1.0)[1]
    np.testing.assert_array_equal(turned[1]["source_chi"], -plain[1]["source_chi"])
    signs = [-1, 1, 1]  # field, mask, noise
    np.testing.assert_array_equal(turned[0]["source_x"], plain[0]["source_x"] * signs)


@pytest.mark.parametrize("rule", ["2020", "random"])
def test_crops_of_the_target(rule):
    rng = np.random.default_rng(0)
    mask = np.zeros((20, 15, 30), bool)
    mask[3:17, 5:13, 2:27] = True
    field = rng.standard_normal(mask.shape).astype(np.float32)
    magnitude = rng.uniform(1, 2, mask.shape)
    subject = make_subject(field, mask, (1, 1.2, 0.8), (0.1, 0.2, 1), magnitude)
    crops = TargetCrops(subject, {"inputs": ["field", "mask"]}, (8, 12, 10), rule)
    box = np.pad(subject.field[3:17, 5:13, 2:27], ((0, 0), (2, 2), (0, 0)))  # y is too short
    starts = set()
    for _ in range(30):
        x, inside, truth = crops.draw(rng)
        assert x.shape == (8, 12, 10, 2)
        assert truth.shape == (8, 12, 10, 3)
        found = [
            (i, k) for i in range(7) for k in range(16)
            if np.allclose(box[i : i + 8, :, k : k + 10] * FIELD_SCALE, truth[..., 0], atol=1e-4)
        ]  # fmt: skip
        assert len(found) == 1
        starts |= set(found)
        np.testing.assert_allclose(x[..., 0], truth[..., 0], rtol=1e-6)
        np.testing.assert_array_equal(inside, truth[..., 2:])
        weights = truth[..., 1][inside[..., 0] > 0]
        assert (weights > 0.4).all()
        assert (weights <= 1).all()
    assert len({i for i, _ in starts}) == (1 if rule == "2020" else 7)
    if rule == "2020":
        assert {i for i, _ in starts} == {3}
    assert len({k for _, k in starts}) > 5
    with pytest.raises(ValueError, match="target_crop"):
        TargetCrops(subject, {"inputs": ["field", "mask"]}, (8, 12, 10), "centre")


def test_bad_patch_files(tmp_path, data):
    with pytest.raises(ValueError, match="run step 3 first"):
        PatchFile(tmp_path / "none.h5", ["field"])
    (tmp_path / "text.h5").write_text("text")
    with pytest.raises(ValueError, match="not a patch file"):
        PatchFile(tmp_path / "text.h5", ["field"])
    with pytest.raises(ValueError, match="lacks the channels tv; run step 3 with inputs="):
        PatchFile(data / "patches.h5", ["field", "tv"])


# Learning rates and logs


def rates(schedule, steps):
    return [float(keras.ops.convert_to_numpy(schedule(s))) for s in steps]


def test_learning_rates():
    found = rates(ExponentialSteps(1e-4), (0, 199, 200, 450))
    np.testing.assert_allclose(found, 1e-4 * np.exp([0, 0, -0.1, -0.2]), rtol=1e-5)
    found = rates(LinearDecay(1e-3, 1000, 0.4), (0, 49, 99, 500, 600, 800, 1000))
    np.testing.assert_allclose(found, np.array([0.01, 0.5, 1, 1, 1, 0.5, 0]) * 1e-3, rtol=1e-4)
    for schedule in (ExponentialSteps(1e-4, 7), LinearDecay(1e-3, 50, 0.4)):
        config = keras.optimizers.schedules.serialize(schedule)
        twin = keras.optimizers.schedules.deserialize(config)
        assert rates(twin, (3, 30)) == rates(schedule, (3, 30))


def test_rows_beyond_the_state_are_cut(tmp_path):
    log = tmp_path / "log.csv"
    log.write_text("epoch,loss\n1,0.5\n2,0.4\n3,0.")
    cut_rows(log, 2)
    assert read_rows(log) == {"epoch": [1, 2], "loss": [0.5, 0.4]}
    assert [p.name for p in tmp_path.iterdir()] == ["log.csv"]


# The whole step


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    """A finished run of two branches, in three epochs."""
    folder = tmp_path_factory.mktemp("trained")
    main(options(data, folder, augment=True))
    return folder


def test_training_lowers_the_loss_and_keeps_what_it_should(trained):
    files = {p.name for p in trained.iterdir()}
    assert files == {"config.json", "log.csv", "curve.png", "state.h5", "weights.h5"}
    log = log_of(trained)
    assert log["epoch"] == [1, 2, 3]
    assert log["loss"][-1] < log["loss"][0]
    for branch in ("source_chi", "target_chi", "target_field"):
        assert f"val_{branch}_loss" in log
    config = load_config("step4_train", [])
    weights = {"source_chi": config["source_weight"], "target_field": config["data_weight"],
               "target_chi": config["tv_weight"]}  # fmt: skip
    total = sum(w * np.array(log[f"val_{k}_loss"]) for k, w in weights.items())
    np.testing.assert_allclose(log["val_loss"], total, rtol=1e-3)
    with h5py.File(trained / "weights.h5") as file:
        names = set(file)
    assert {"down0_0_norm_source", "down0_0_norm_target", "last"} <= names
    model, spec = load_network(trained / "weights.h5")
    assert spec["filters"] == 2
    assert list(model.output) == ["target_chi"]


def test_source_domain_alone(data, tmp_path):
    main(options(data, tmp_path, target=False, epochs=1))
    assert "val_loss" in log_of(tmp_path)
    assert "target_chi_loss" not in log_of(tmp_path)
    load_network(tmp_path / "weights.h5")


def test_a_finished_run_and_more_epochs(data, tmp_path, trained, capsys):
    whole = log_of(trained)
    config = options(data, tmp_path, augment=True)
    main(config | {"epochs": 2})
    weights = (tmp_path / "weights.h5").read_bytes()
    main(config | {"epochs": 2})  # nothing left to do
    assert (tmp_path / "weights.h5").read_bytes() == weights
    capsys.readouterr()
    main(config)
    assert "going on after epoch 2 of 3" in capsys.readouterr().out
    same(log_of(tmp_path), whole)


def test_patches_or_a_scan_of_the_same_names_are_not_those_of_a_run(data, tmp_path):
    """Other noise in the patches, another field, mask or sidecar of the scan: no going on."""
    copy = tmp_path / "data"
    shutil.copytree(data, copy)
    main(options(copy, tmp_path / "run", epochs=1))
    main(options(copy, tmp_path / "run", epochs=1))
    for name in ("field", "extra"):
        shutil.copy(data / "patches.h5", copy / "new.h5")
        with h5py.File(copy / "new.h5", "r+") as file:
            file[name][0] = file[name][0] * 1.01
        os.replace(copy / "new.h5", copy / "patches.h5")
        with pytest.raises(ValueError, match="was made with patches_sha256="):
            main(options(copy, tmp_path / "run", epochs=2))
    shutil.copy(data / "patches.h5", copy / "new.h5")
    os.replace(copy / "new.h5", copy / "patches.h5")
    field = read_volume(copy / "scan/field.nii.gz")
    write_volume(copy / "scan/field.nii.gz", field.data * 1.01, like=field)
    with pytest.raises(ValueError, match="was made with field_sha256="):
        main(options(copy, tmp_path / "run", epochs=2))
    shutil.copy(data / "scan/field.nii.gz", copy / "scan/field.nii.gz")
    (copy / "scan/field.json").write_text('{"B0_dir": [0, 0, 1]}')
    main(options(copy, tmp_path / "other", epochs=1))
    (copy / "scan/field.json").write_text('{"B0_dir": [1, 0, 0]}')
    with pytest.raises(ValueError, match="was made with sidecar_sha256="):
        main(options(copy, tmp_path / "other", epochs=2))


def test_a_run_killed_between_log_and_state_repeats_the_epoch(data, tmp_path, trained, monkeypatch):
    config = options(data, tmp_path, augment=True)

    def killed(path, model, notes):
        if notes["epoch"] == 2:
            raise KeyboardInterrupt
        save(path, model, notes)

    from network_model.train_model import train

    save = train.save_state
    monkeypatch.setattr(train, "save_state", killed)
    with pytest.raises(KeyboardInterrupt):
        main(config)
    assert log_of(tmp_path)["epoch"] == [1, 2]
    monkeypatch.undo()
    main(config)
    same(log_of(tmp_path), log_of(trained))


def test_kill_9_and_the_same_command(data, tmp_path, trained):
    config = options(data, tmp_path, augment=True)
    default = load_config("step4_train", [])
    pairs = [f"{k}={v}" for k, v in config.items() if v != default[k]]
    command = [sys.executable, PROJECT_ROOT / "network_model/train_model/train.py", *pairs]

    def start():
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)

    process = start()
    for _ in range(6000):
        if (tmp_path / "state.h5").exists() or process.poll() is not None:
            break
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert (tmp_path / "state.h5").exists()
    process = start()
    errors = process.communicate()[1]
    assert process.returncode == 0, errors
    same(log_of(tmp_path), log_of(trained))
    assert not list(tmp_path.glob(".*"))


def test_early_stop_holds_when_the_command_is_given_again(data, tmp_path, capsys):
    # A learning rate that changes nothing: the first epoch stays the best one.
    config = options(data, tmp_path, target=False, norm="none", learning_rate=1e-30, patience=1)
    main(config | {"epochs": 9})
    assert log_of(tmp_path)["epoch"] == [1, 2]
    main(config | {"epochs": 9})
    assert log_of(tmp_path)["epoch"] == [1, 2]
    assert capsys.readouterr().out.count("no better validation loss in 1 epochs") == 2


def test_warm_start(data, tmp_path, trained):
    config = options(data, tmp_path, learning_rate=1e-30, epochs=1)
    main(config | {"warm_start_path": str(trained / "weights.h5")})
    with h5py.File(trained / "weights.h5") as a, h5py.File(tmp_path / "weights.h5") as b:
        np.testing.assert_allclose(a["last/kernel"], b["last/kernel"], atol=1e-6)


@pytest.mark.parametrize(
    ("balance", "residual"), [("tikhonov", None), (None, None), (None, "tikhonov")]
)
def test_least_squares_before_the_first_step(data, tmp_path, balance, residual):
    """No other share of the network and of the channels has less error over the patches."""
    keys = {"inputs": INPUTS, "norm": "none", "linear_path": True, "linear_start": 16}
    keys |= {"source_balance": balance, "residual": residual}
    config = options(data, tmp_path, target=False, **keys)
    spec, patches = make_spec(config), PatchFile(data / "patches.h5", INPUTS)
    model = compile_model(config, spec, patches, None, 1)
    model.get_layer("linear_path").set_weights([np.full((4, 1), 0.1, np.float32)])
    indices = np.arange(8)
    batch, truth, *weights = DataGenerator(
        patches, indices, config | {"batch_size": 8, "validation_steps": 1}, None, -1
    )[0]
    weight = weights[0]["source_chi"] if weights else np.ones(8)
    inside = batch["source_mask"][..., 0] > 0

    def parts():
        chi = np.asarray(model.predict_on_batch(batch)["source_chi"])
        scale = np.broadcast_to(weight[:, None, None, None, None], chi.shape)[inside]
        return chi[inside] * scale, (chi - truth["source_chi"])[inside] * scale, scale

    before, wrong, scale = parts()
    found = fit_linear_path(model, spec, patches, indices, config)
    assert list(found) == ["field", "tikhonov", "network"]
    _, left, _ = parts()
    assert np.linalg.norm(left) < (0.9 if residual is None else 0.99) * np.linalg.norm(wrong)
    for column in (before, *(batch["source_x"][inside][:, [i]] * scale for i in (0, 3))):
        cosine = np.sum(column * left) / np.linalg.norm(column) / np.linalg.norm(left)
        assert abs(cosine) < 1e-3
    main(config | {"epochs": 1, "learning_rate": 1e-30})
    with h5py.File(tmp_path / "weights.h5") as file:
        assert np.abs(file["linear_path/kernel"][3]) > 0.01


@pytest.mark.parametrize(
    "keys",
    [
        {"mixed_precision": True, "inputs": INPUTS, "source_balance": "tikhonov"},
        {"architecture": "nonlocal_gated", "schedule": "linear", "clipnorm": 1.0},
        {"norm": "group", "source_loss": "l1_rms", "weights_dtype": "float16"},
    ],
    ids=["half precision", "nonlocal", "group norm"],
)
def test_other_ways_to_train(data, tmp_path, keys):
    try:
        main(options(data, tmp_path, epochs=2, validation_steps=1, steps_per_epoch=4, **keys))
        assert keras.config.dtype_policy().name == (
            "mixed_bfloat16" if keys.get("mixed_precision") else "float32"
        )
    finally:
        keras.config.set_dtype_policy("float32")
    log = log_of(tmp_path)
    assert log["epoch"] == [1, 2]
    assert np.isfinite(log["val_loss"]).all()
    load_network(tmp_path / "weights.h5")


def test_a_second_network_corrects_the_first(data, tmp_path):
    """Steps 3 and 4 with another network's map as a channel, in patches and in the target scan."""
    first = tmp_path / "first.h5"
    make_network(first, INVERSION)
    inputs = ["field", "mask", "structured", "first"]
    step3 = {"srcFolder": str(data / "maps"), "dstFile": str(tmp_path / "patches.h5")}
    step3 |= {"inputs": inputs, "firstFile": str(first), "patches_per_map": 4}
    sizes = {"patch_size": PATCH, "overlap_size": (12, 16, 8)}
    cut_patches(load_config("step3_genRDFPatchesSyn", []) | step3 | sizes)
    keys = {"inputs": inputs, "firstFile": str(first), "residual": "first", "shuffle": 2}
    keys |= {"norm": "none", "negative_slope": 0.1, "xsim_weight": 0.5, "epochs": 2}
    main(options(data, tmp_path / "run", datasets_path=step3["dstFile"], **keys))
    log = log_of(tmp_path / "run")
    assert np.isfinite(log["source_xsim_loss"]).all()
    assert np.isfinite(log["target_field_loss"]).all()
    other = tmp_path / "other/patches.h5"
    cut_patches(load_config("step3_genRDFPatchesSyn", []) | step3 | sizes | {
        "dstFile": str(other), "patches_per_map": 3})  # fmt: skip
    with pytest.raises(ValueError, match="was made with patches_sha256"):
        main(options(data, tmp_path / "run", datasets_path=str(other), **keys))
    beside = tmp_path / "top.h5"
    make_network(beside, INVERSION | {"structured_file": "white.h5"})
    shutil.copy(first, tmp_path / "white.h5")
    with pytest.raises(ValueError, match=r"top\.h5: needs white\.h5 beside it"):
        main(options(data, tmp_path / "top", datasets_path=step3["dstFile"], **keys | {
            "firstFile": str(beside)}))  # fmt: skip
    make_network(first, INVERSION, seed=1)
    with pytest.raises(ValueError, match=r"its first maps are not those of .*first\.h5"):
        main(options(data, tmp_path / "other", datasets_path=step3["dstFile"], **keys))
    first.unlink()
    _, spec = load_network(tmp_path / "run/weights.h5")
    assert spec["shuffle"] == 2
    assert spec["first"] == {"path": str(tmp_path / "run/weights.h5"), "group": "/first"}


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"schedule": "cosine"}, "expected one of 2020, linear"),
        ({"source_loss": "l2"}, "expected one of l1, l1_rms"),
        ({"batch_size": 0}, "batch_size 0"),
        ({"epochs": 0}, "epochs 0"),
        ({"validation_split": 1.0}, "validation_split"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"weights_dtype": "int8"}, "weights_dtype"),
        ({"source_balance": "tv"}, "source_balance 'tv': expected None or an inversion"),
        ({"source_balance": "mask"}, "source_balance 'mask'"),
        ({"resident": True}, "set KERAS_BACKEND=torch"),
        ({"maps": ["map_0000", "map_0099"]}, "lacks some of the maps"),
        ({"maps": 5}, "maps 5: expected a list of names"),
        ({"xsim_weight": -1.0}, "xsim_weight -1"),
        ({"source_weight": -1.0}, "source_weight -1"),
        ({"data_weight": -20.0}, "data_weight -20"),
        ({"clipnorm": -1.0}, "clipnorm -1"),
        ({"decay_share": -1.0}, "decay_share -1.0: expected a number from 0 to 1"),
        ({"sign_chance": 2.0}, "sign_chance 2"),
        ({"tile": -8}, "tile -8: expected 0 or a multiple of 4"),
        ({"linear_start": -1}, "linear_start -1"),
        ({"linear_start": 9}, "expected linear_path=True"),
        ({"inputs": ["field", "first"]}, "set firstFile"),
        ({"target_crop": "centre"}, "target_crop"),
        ({"depth": 5}, "multiples of 16"),
        ({"inputs": ["field", "tv"]}, "lacks the channels tv"),
        ({"datasets_path": "none.h5"}, "run step 3 first"),
        ({"fieldFile": "none.nii"}, "no such file"),
        ({"warm_start_path": "none.h5"}, "no such weights"),
        ({"gpus": 64}, "gpus 64"),
        ({"crop": 16}, "crop 16: expected three whole numbers"),
        ({"crop": [16.0, 16, 16]}, "expected three whole numbers"),
    ],
)
def test_mistakes(data, tmp_path, keys, message):
    with pytest.raises((ValueError, OSError), match=message):
        main(options(data, tmp_path, **keys))
    assert not list(tmp_path.iterdir())  # not even a config that would refuse the next try


def test_weights_of_another_architecture_and_a_state_of_another_model(data, tmp_path, trained):
    with pytest.raises(ValueError, match="weights of another architecture"):
        main(options(data, tmp_path, filters=4, warm_start_path=str(trained / "weights.h5")))
    (tmp_path / "b").mkdir()
    (tmp_path / "b/state.h5").write_bytes((trained / "state.h5").read_bytes())
    with pytest.raises(ValueError, match=r"state\.h5: not the state of this model"):
        main(options(data, tmp_path / "b", filters=4))


def test_other_options_in_the_same_folder(data, trained):
    with pytest.raises(ValueError, match="was made with filters=2, now filters=4"):
        main(options(data, trained, augment=True, filters=4))


def test_a_loss_that_is_not_finite_is_an_error(data, tmp_path, monkeypatch):
    monkeypatch.setattr("network_model.train_model.train.run_epoch",
                        lambda *args: {"epoch": 1, "loss": np.nan, "val_loss": 1.0})  # fmt: skip
    with pytest.raises(ValueError, match="epoch 1: the loss is not finite"):
        main(options(data, tmp_path))


def test_the_state_is_all_of_the_training(data, trained):
    """Weights, moments and the number of steps: a model that reads it back has them."""
    with h5py.File(trained / "state.h5") as file:
        scalars = [file[k][()] for k in file if file[k].shape == ()]
    assert max(scalars) == 3 * 6  # epochs times batches


other_backends = pytest.mark.parametrize("backend", ["jax", "torch"])


@other_backends
def test_layers_and_losses_under_other_backends(backend):
    tests = ["tests/test_layers.py", "tests/test_losses.py"]
    run_under(backend, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests)


@other_backends
@pytest.mark.parametrize("resident", [False, True])
def test_two_steps_of_training_under_other_backends(data, tmp_path, backend, resident):
    keys = {"epochs": 1, "steps_per_epoch": 2, "validation_steps": 1}
    config = options(data, tmp_path, **keys, resident=resident and backend == "torch")
    default = load_config("step4_train", [])
    pairs = [f"{k}={v}" for k, v in config.items() if v != default[k]]
    run_under(backend, "network_model/train_model/train.py", *pairs)
    with (tmp_path / "log.csv").open() as file:
        assert np.isfinite(float(next(csv.DictReader(file))["val_loss"]))
    load_network(tmp_path / "weights.h5")  # in TensorFlow


def run_under(backend, *command):
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    done = subprocess.run(
        [sys.executable, *command], cwd=PROJECT_ROOT, capture_output=True, text=True, check=False,
        env={**os.environ, "KERAS_BACKEND": backend, "JAX_PLATFORMS": "cpu"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
