"""Steps 0 to 5 and 7, one after the other, on two tiny heads: files, grids, units, progress."""

import csv
import importlib
import json

import h5py
import nibabel as nib
import numpy as np
import pytest

import network_model.quiet  # noqa: F401
from configs import PROJECT_ROOT, load_config
from training_data.nifti import b0_direction, read_mask, read_volume

SHAPE, VOXEL, B0 = (40, 47, 37), (4.6, 4.2, 4.8), (0.1, -0.2, 0.95)
INPUTS = ["field", "mask", "noise", "tikhonov"]
SCRIPTS = {
    "step0_genPhantom": "training_data.genPhantom",
    "step1_genChi": "training_data.genChi",
    "step2_qsmFmapCal": "training_data.qsmFmapCal_gpu",
    "step3_genRDFPatchesSyn": "genRDFPatchesSyn",
    "step4_train": "network_model.train_model.train",
    "step5_model_finetune": "network_model.model_finetune.train",
    "step7_evaluate": "network_model.evaluate",
}
KEYS = {
    "step0_genPhantom": {"shape": SHAPE, "voxel_size": VOXEL, "b0_dir": B0},
    "step1_genChi": {"number": 4},
    "step2_qsmFmapCal": {"device": "cpu"},
    "step3_genRDFPatchesSyn": {
        "patch_size": [16, 16, 16], "overlap_size": [8, 8, 8], "inputs": INPUTS,
    },
    "step4_train": {
        "filters": 4, "depth": 2, "verbose": 0, "inputs": INPUTS, "residual": None, "epochs": 4,
        "learning_rate": 3e-3,
    },
    "step5_model_finetune": {"rounds": 2, "iterations": 2, "learning_rate": 1e-3,
                             "method": "network"},
    "step7_evaluate": {},
}  # fmt: skip


def run(step, folder, **keys):
    """A step's main with the demo's config, its run below `folder` instead of the project."""
    config = load_config(step, [str(PROJECT_ROOT / "configs/demo" / f"{step}.py")])
    here, there = str(PROJECT_ROOT / "runs/demo"), str(folder)
    config = {k: v.replace(here, there) if isinstance(v, str) else v for k, v in config.items()}
    importlib.import_module(SCRIPTS[step]).main(config | KEYS[step] | keys)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    for step in SCRIPTS:
        run(step, folder)
    return folder


def table(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def same_grid(a, b):
    image, like = nib.load(a), nib.load(b)
    assert image.shape == like.shape
    np.testing.assert_allclose(image.affine, like.affine, atol=1e-4)
    assert image.header.get_xyzt_units()[0] == "mm"
    return image


def test_heads(folder):
    assert {p.name for p in (folder / "0_phantom").iterdir()} == {"head_1", "head_2", "config.json"}
    head = folder / "0_phantom/head_2"
    for name in ("chi", "mask", "labels", "magnitude", "localfield"):
        image = same_grid(head / f"{name}.nii.gz", head / "chi.nii.gz")
        assert image.shape == SHAPE
        np.testing.assert_allclose(image.header.get_zooms(), VOXEL, rtol=1e-5)
    direction = np.array(B0) / np.linalg.norm(B0)
    found = b0_direction(nib.load(head / "chi.nii.gz").affine)
    np.testing.assert_allclose(found, direction, atol=1e-5)
    chi, (mask, _) = read_volume(head / "chi.nii.gz").data, read_mask(head / "mask.nii.gz")
    assert 0.01 < chi[mask].std() < 0.2  # ppm
    assert json.loads((head / "params.json").read_text())["seed"] == 2


def test_maps_and_fields(folder):
    maps = sorted((folder / "1_chi").glob("map_*"))
    assert [p.name for p in maps] == [f"map_{i:04d}" for i in range(4)]
    for place in maps:
        names = {p.name for p in place.iterdir()}
        assert names == {"suscp.nii.gz", "Mask.nii.gz", "sample.json", "fmap_suscp.nii.gz"}
        mask, volume = read_mask(place / "Mask.nii.gz")
        for name in ("suscp", "fmap_suscp"):
            image = same_grid(place / f"{name}.nii.gz", folder / "0_phantom/head_1/chi.nii.gz")
            data = image.get_fdata()
            assert not data[~mask].any()
            assert 0.001 < data[mask].std() < 1  # ppm
        assert volume.data.shape == SHAPE


def test_patches(folder):
    assert {p.name for p in (folder / "3_patches").iterdir()} == {"patches.h5", "config.json"}
    with h5py.File(folder / "3_patches/patches.h5") as file:
        count = len(file["sample"])
        assert file["field"].shape == file["chi"].shape == (count, 16, 16, 16)
        assert file["extra"].shape == (count, 16, 16, 16, 2)
        assert len(np.unique(file["sample"])) == 4


def test_training_lowers_the_loss(folder):
    rows = table(folder / "4_train/log.csv")
    assert len(rows) == 4
    assert float(rows[-1]["loss"]) < float(rows[0]["loss"])
    assert float(rows[-1]["val_loss"]) < float(rows[0]["val_loss"])
    for name in ("weights.h5", "state.h5", "curve.png", "config.json"):
        assert (folder / "4_train" / name).stat().st_size > 100


def test_fine_tuning_lowers_the_misfit(folder):
    rows = table(folder / "5_finetune/losses.csv")
    assert [int(r["iteration"]) for r in rows] == [0, 1, 2, 3]
    assert float(rows[-1]["data"]) < float(rows[0]["data"])
    mask, _ = read_mask(folder / "0_phantom/head_2/mask.nii.gz")
    for name in ("chi_round00", "chi_round01", "chi"):
        path = folder / f"5_finetune/{name}.nii.gz"
        data = same_grid(path, folder / "0_phantom/head_2/chi.nii.gz").get_fdata()
        assert not data[~mask].any()
        assert 0.001 < data[mask].std() < 1  # ppm
    assert (folder / "5_finetune/losses.png").is_file()


def test_scores(folder):
    rows = table(folder / "7_evaluate/scores.csv")
    assert [r["method"] for r in rows] == ["tkd", "l2", "network", "finetuned"]
    assert {"nrmse", "nrmse_detrend", "xsim", "hfen", "correlation"} <= set(rows[0])
    for row in rows:
        assert all(np.isfinite(float(v)) for k, v in row.items() if k in ("nrmse", "xsim", "hfen"))
    for name in ("tkd", "l2"):
        same_grid(folder / f"7_evaluate/{name}.nii.gz", folder / "0_phantom/head_2/chi.nii.gz")
    assert (folder / "7_evaluate/comparison.png").stat().st_size > 10_000


def test_the_same_commands_again_change_nothing(folder):
    def stamps():
        return {p: p.stat().st_mtime_ns for p in sorted(folder.rglob("*")) if p.is_file()
                and p.suffix not in (".json", ".png") and "7_" not in str(p)}  # fmt: skip

    before = stamps()
    for step in SCRIPTS:
        run(step, folder)
    after = stamps()
    assert set(before) == set(after)
    changed = {p.name for p in before if before[p] != after[p]}
    assert changed <= {"log.csv"}  # read, cut to its rows and written back


def test_no_iterations_are_plain_inference(folder, tmp_path):
    run("step5_model_finetune", folder, iterations=0, dstFolder=str(tmp_path))
    plain = read_volume(tmp_path / "chi.nii.gz").data
    expected = read_volume(folder / "5_finetune/chi_round00.nii.gz").data
    np.testing.assert_allclose(plain, expected, atol=1e-6)
