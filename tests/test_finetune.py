"""Step 5: what it writes, that the misfit falls, resuming, and one line for bad input."""

import csv
import dataclasses
import json
import shutil

import numpy as np
import pytest
from scans import INVERSION, KERAS_ON_NUMPY, PLAIN, make_network, tilted_affine, write_scan

from configs import load_config
from network_model.finetune import FineTuner, exchanged, freeze_all_but
from network_model.inference import load_to_predict, predict
from network_model.mending import trusted_subject
from network_model.model_finetune import train
from network_model.subject import load_subject
from network_model.tuning import Tuning
from network_model.unet import load_network
from training_data.dipole import forward_field
from training_data.nifti import read_volume, write_volume

pytestmark = KERAS_ON_NUMPY
# A network that corrects the map of another file's, in tiles.
TOP = PLAIN | {"inputs": ["field", "mask", "first"], "below_file": "plain.h5", "tile": 16}
TOP |= {"norm": "none"}


@pytest.fixture(scope="module")
def scan(tmp_path_factory):
    """Folder with an oblique, anisotropic scan and two networks."""
    folder = tmp_path_factory.mktemp("scan")
    b0_dir = (0, np.sin(np.deg2rad(20)), np.cos(np.deg2rad(20)))
    write_scan(folder, tilted_affine(20), b0_dir=b0_dir)
    make_network(folder / "plain.h5", PLAIN)
    make_network(folder / "inversion.h5", INVERSION)
    return folder


def config_of(scan, destination, *pairs):
    given = {"fieldFile": "field.nii.gz", "maskFile": "mask.nii.gz", "weightsFile": "plain.h5"}
    files = [f"{key}={scan / name}" for key, name in given.items()]
    numbers = ["rounds=2", "iterations=3", "learning_rate=1e-3", f"dstFolder={destination}"]
    return load_config("step5_model_finetune", [*files, *numbers, *pairs])


def subject_of(scan):
    return load_subject(*[scan / f"{n}.nii.gz" for n in ("field", "mask", "magnitude")])


def losses(folder):
    with open(folder / "losses.csv") as file:
        return [[float(v) for v in row.values()] for row in csv.DictReader(file)]


def test_defaults_are_those_of_the_2020_release():
    config = load_config("step5_model_finetune", [])
    assert config["weightsFile"].endswith("runs/default/4_train/weights.h5")
    assert (config["rounds"], config["iterations"]) == (10, 100)
    assert Tuning.from_config(config) == Tuning(1.0, 0.001, 1e-5, 200, "all")


def test_writes_maps_losses_and_lowers_the_misfit(scan, tmp_path):
    train.main(config_of(scan, tmp_path))
    names = {p.name for p in tmp_path.iterdir()}
    assert names == {"chi.nii.gz", "chi_round00.nii.gz", "chi_round01.nii.gz", "losses.csv",
                     "losses.png", "state.h5", "config.json"}  # fmt: skip
    field = read_volume(scan / "field.nii.gz")
    for name in ("chi", "chi_round00", "chi_round01"):
        chi = read_volume(tmp_path / f"{name}.nii.gz")
        np.testing.assert_allclose(chi.affine, field.affine, atol=1e-6)
        assert chi.data.shape == field.data.shape
    rows = losses(tmp_path)
    assert [row[0] for row in rows] == list(range(6))
    assert rows[-1][1] < 0.95 * rows[0][1]

    subject = subject_of(scan)
    trusted = trusted_subject(subject)[0]
    plain = predict(*load_network(scan / "plain.h5"), trusted)
    np.testing.assert_allclose(read_volume(tmp_path / "chi_round00.nii.gz").data, plain, atol=1e-6)
    misfit = [
        np.std((subject.field - forward_field(x, subject.voxel_size, subject.b0_dir))[subject.mask])
        for x in (plain, read_volume(tmp_path / "chi.nii.gz").data)
    ]
    assert misfit[1] < misfit[0]


def test_data_term_is_the_physics_on_the_true_grid(scan):
    subject = subject_of(scan)
    model, spec = load_network(scan / "plain.h5")
    chi = predict(model, spec, subject)
    data = FineTuner(model, spec, subject, Tuning()).step()["data"]
    phase = 100 * (forward_field(chi, subject.voxel_size, subject.b0_dir) - subject.field)
    misfit = (2 * subject.weight * np.sin(phase / 2))[subject.mask] ** 2
    assert data == pytest.approx(misfit.mean(), rel=0.02)


def test_no_iterations_is_plain_inference(scan, tmp_path):
    train.main(config_of(scan, tmp_path, "iterations=0"))
    plain = predict(*load_network(scan / "plain.h5"), trusted_subject(subject_of(scan))[0])
    for name in ("chi", "chi_round00"):
        np.testing.assert_allclose(read_volume(tmp_path / f"{name}.nii.gz").data, plain, atol=1e-7)


def test_a_killed_run_goes_on_and_ends_the_same(scan, tmp_path, monkeypatch, capsys):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    train.main(config_of(scan, whole))
    step, left = FineTuner.step, iter([True] * 4)

    def dying(self):
        if not next(left, False):
            raise KeyboardInterrupt
        return step(self)

    monkeypatch.setattr(FineTuner, "step", dying)
    with pytest.raises(KeyboardInterrupt):
        train.main(config_of(scan, killed))
    assert not (killed / "chi.nii.gz").exists()
    monkeypatch.setattr(FineTuner, "step", step)
    train.main(config_of(scan, killed))
    assert "going on after round 1 of 2" in capsys.readouterr().out
    np.testing.assert_allclose(losses(killed), losses(whole), rtol=1e-5)
    for path in whole.glob("*.nii.gz"):
        np.testing.assert_allclose(
            read_volume(killed / path.name).data, read_volume(path).data, atol=1e-6
        )
    field = read_volume(scan / "field.nii.gz")
    original = (scan / "field.nii.gz").read_bytes()
    write_volume(scan / "field.nii.gz", 2 * field.data, like=field)
    with pytest.raises(ValueError, match="was made with field_sha256"):
        train.main(config_of(scan, killed))
    (scan / "field.nii.gz").write_bytes(original)
    changed = (killed / "chi.nii.gz").stat().st_mtime_ns
    train.main(config_of(scan, killed))
    assert "finished before" in capsys.readouterr().out
    assert (killed / "chi.nii.gz").stat().st_mtime_ns == changed
    assert not list(killed.glob(".*"))


@pytest.mark.parametrize("method", ["image", "both"])
def test_the_map_is_refined_after_the_network(scan, tmp_path, monkeypatch, method):
    def refine(chi_network, field, mask, voxel_size, b0_dir, magnitude, structured):
        assert field.shape == mask.shape == chi_network.shape == magnitude.shape
        return 2 * chi_network

    monkeypatch.setattr("network_model.refine.refine", refine)
    magnitude = f"magnitudeFile={scan / 'magnitude.nii.gz'}"
    train.main(config_of(scan, tmp_path, f"method={method}", magnitude))
    before, after, first = (
        read_volume(tmp_path / f"{n}.nii.gz").data for n in ("chi_network", "chi", "chi_round00")
    )
    np.testing.assert_allclose(after, 2 * before, rtol=1e-6)
    assert np.array_equal(before, first) == (method == "image")


@pytest.mark.parametrize("trainable", ["norm", "last"])
def test_only_the_chosen_weights_move(scan, trainable):
    model, spec = load_network(scan / "plain.h5")
    before = {v.path: np.array(v.value) for v in model.variables}
    tuner = FineTuner(
        model, spec, subject_of(scan), Tuning(learning_rate=1e-2, trainable=trainable)
    )
    tuner.run(2)
    moved = {v.path for v in model.variables if not np.array_equal(before[v.path], v.value)}
    assert moved
    assert all((trainable == "last") == path.startswith("last") for path in moved)
    assert not any("moving" in path for path in moved)


def test_statistics_of_the_norms_stay(scan):
    model, spec = load_network(scan / "inversion.h5")
    before = {v.path: np.array(v.value) for v in model.variables if "moving" in v.path}
    tuner = FineTuner(model, spec, subject_of(scan), Tuning(learning_rate=1e-3))
    tuner.run(2)
    for variable in model.variables:
        if variable.path in before:
            np.testing.assert_array_equal(before[variable.path], variable.value)


BAD = {
    "no weights": ("weightsFile={}/none.h5", "no such weights"),
    "not weights": ("weightsFile={}/field.nii.gz", "not a weights file"),
    "no field": ("fieldFile={}/none.nii.gz", "no such file"),
    "other unit": ("unit=T", "expected one of"),
    "unit without b0": ("unit=Hz", "needs b0"),
    "method": ("method=magic", "expected one of"),
    "trainable": ("trainable=none", "expected one of"),
    "negative rounds": ("rounds=-1", "at least 0"),
    "learning rate": ("learning_rate=0.0", "expected a number > 0"),
    "negative weight": ("tv_weight=-1.0", "expected a number >= 0"),
    "diverging": ("learning_rate=1e30", "not finite"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_clear_line(scan, tmp_path, case):
    pair, words = BAD[case]
    with pytest.raises(ValueError, match=words) as error:
        train.main(config_of(scan, tmp_path, pair.format(scan)))
    assert "\n" not in str(error.value)
    assert not (tmp_path / "chi.nii.gz").exists()


def test_a_folder_of_another_config_or_other_weights_is_refused(scan, tmp_path):
    train.main(config_of(scan, tmp_path, "iterations=0"))
    with pytest.raises(ValueError, match="was made with"):
        train.main(config_of(scan, tmp_path, "iterations=0", "tv_weight=0.5"))
    content = json.loads((tmp_path / "config.json").read_text())
    assert len(content["weights_sha256"]) == 64


@pytest.mark.parametrize("changed", ["sidecar", "network below"])
def test_other_files_that_decide_the_map_are_not_finished(scan, tmp_path, changed):
    copy = tmp_path / "scan"
    shutil.copytree(scan, copy)
    (copy / "field.json").write_text('{"B0_dir": [0, 0, 1]}')
    make_network(copy / "top.h5", TOP | {"firstFile": str(copy / "plain.h5")})
    pairs = ("iterations=0", f"weightsFile={copy / 'top.h5'}")
    train.main(config_of(copy, tmp_path / "out", *pairs))
    if changed == "sidecar":
        (copy / "field.json").write_text('{"B0_dir": [0, 0.2, 1]}')
    else:
        make_network(copy / "plain.h5", PLAIN, seed=5)
    with pytest.raises(ValueError, match=r"was made with (sidecar|plain)_sha256="):
        train.main(config_of(copy, tmp_path / "out", *pairs))


def test_of_two_networks_the_first_is_tuned_and_the_map_is_the_seconds(scan, tmp_path, capsys):
    make_network(scan / "top.h5", TOP | {"firstFile": str(scan / "plain.h5")})
    train.main(config_of(scan, tmp_path, f"weightsFile={scan / 'top.h5'}"))
    assert "those of the first network; others correct its map" in capsys.readouterr().out
    trusted = trusted_subject(subject_of(scan))[0]
    # In bfloat16 where the processor has it, as inference.
    plain = predict(*load_to_predict(scan / "top.h5"), trusted, mirrors=True)
    first, last = (read_volume(tmp_path / f"{n}.nii.gz").data for n in ("chi_round00", "chi"))
    np.testing.assert_allclose(first, plain, atol=1e-6)
    assert np.abs(last - first).max() > 1e-4


@pytest.mark.parametrize("axis", [0, 1])
def test_a_scan_is_tuned_with_b0_along_the_third_axis(scan, axis):
    """As in plain inference: a head that lies with its axes exchanged is the same head."""
    straight = subject_of(scan)
    turned = exchanged(dataclasses.replace(straight, b0_dir=np.eye(3)[axis]))
    b0_dir = np.array(straight.b0_dir)
    b0_dir[[axis, 2]] = b0_dir[[2, axis]]
    turned = dataclasses.replace(turned, b0_dir=b0_dir)
    maps = []
    for subject in (straight, turned):
        model, spec = load_network(scan / "plain.h5")
        tuner = FineTuner(model, spec, subject, Tuning(learning_rate=1e-3))
        np.testing.assert_allclose(tuner.chi(), predict(model, spec, subject), atol=1e-6)
        losses = [row["loss"] for row in tuner.run(2)]
        maps.append((tuner.chi(), losses))
    np.testing.assert_allclose(maps[1][0].swapaxes(axis, 2), maps[0][0], atol=1e-5)
    np.testing.assert_allclose(maps[1][1], maps[0][1], rtol=1e-4)


def test_a_scan_is_tuned_on_a_field_that_is_mended(scan, monkeypatch):
    subject = subject_of(scan)
    better = dataclasses.replace(subject, field=subject.field * np.float32(0.5))
    monkeypatch.setattr("network_model.finetune.mended", lambda *_: (better, {}))
    model, spec = load_network(scan / "plain.h5")
    tuner = FineTuner(model, spec, subject, Tuning())
    np.testing.assert_allclose(tuner.chi(), predict(model, spec, better), atol=1e-6)


def test_a_network_without_norms_cannot_train_them(tmp_path):
    model, _ = make_network(tmp_path / "bare.h5", PLAIN | {"norm": "none"})
    with pytest.raises(ValueError, match="no such weights"):
        freeze_all_but(model, "norm")
