"""The digital head: anatomy from the seed, χ as in the literature, any grid; and step 0's files."""

import json

import numpy as np
import pytest

from configs import load_config
from training_data import genPhantom
from training_data.nifti import b0_direction, read_volume
from training_data.phantom import LABELS, R2STAR_EXPONENT, make_head
from training_data.phantom_fields import Frame, smooth_noise

SHAPE, VOXEL = (44, 48, 44), (3.6, 3.8, 3.6)
CONFIG = {"shape": SHAPE, "voxel_size": VOXEL, "seeds": [3], "haemorrhage": False}


def draw(seed, shape=SHAPE, voxel=VOXEL, **options):
    return make_head(shape, voxel, np.random.default_rng(seed), **options)


@pytest.fixture(scope="module")
def fine():
    """A head on a grid that resolves the small nuclei."""
    return draw(5, (80, 96, 80), (1.9, 1.9, 1.9), haemorrhage=True, calcification=True)


@pytest.fixture(scope="module")
def head():
    return draw(1)


def test_types_and_zero_outside(head):
    mask = head["mask"]
    assert head["chi"].dtype == np.float32
    assert mask.dtype == bool
    assert head["labels"].dtype == np.uint8
    for name in ("chi", "labels", "magnitude", "t2star"):
        assert head[name].shape == SHAPE
        assert not head[name][~mask].any()
    assert head["chi"][mask].mean() == pytest.approx(0, abs=1e-5)
    assert head["magnitude"].max() == pytest.approx(1)
    assert head["magnitude"][mask].min() > 0
    assert not any(m.any() for m in (mask[0], mask[-1], mask[:, 0], mask[:, -1], mask[..., 0]))


def test_seed_decides_the_head(head):
    again, other = draw(1), draw(2)
    for name in head:
        np.testing.assert_array_equal(head[name], again[name])
    both = head["mask"] & other["mask"]
    assert np.corrcoef(head["chi"][both], other["chi"][both])[0, 1] < 0.6
    overlap = 2 * both.sum() / (head["mask"].sum() + other["mask"].sum())
    assert overlap < 0.97


def test_same_head_on_another_grid():
    coarse = draw(4, (48, 56, 48), (3.6, 3.6, 3.6))["mask"]
    fine = draw(4, (96, 112, 96), (1.8, 1.8, 1.8))["mask"]
    merged = fine.reshape(48, 2, 56, 2, 48, 2).mean((1, 3, 5)) > 0.5
    assert 2 * (merged & coarse).sum() / (merged.sum() + coarse.sum()) > 0.97


def test_lesions_leave_the_rest_alone(head):
    lesions = draw(1, haemorrhage=True, calcification=True)
    np.testing.assert_array_equal(lesions["mask"], head["mask"])
    assert (lesions["labels"] == head["labels"])[head["mask"]].mean() > 0.98


def test_all_labels_are_there(fine):
    assert set(np.unique(fine["labels"])) == {0, *LABELS.values()}


@pytest.mark.parametrize(
    ("tissue", "low", "high"),
    [
        ("caudate", 0.015, 0.10), ("pallidum", 0.07, 0.22), ("putamen", 0.015, 0.10),
        ("red_nucleus", 0.04, 0.17), ("dentate", 0.05, 0.17), ("nigra", 0.05, 0.19),
        ("thalamus", -0.015, 0.05), ("white_matter", -0.045, -0.008), ("grey_matter", 0.0, 0.035),
        ("csf", -0.005, 0.035), ("blood", 0.07, 0.30), ("calcification", -3.2, -0.4),
        ("haemorrhage", 0.3, 2.2),
    ],
)  # fmt: skip
def test_susceptibility_of_tissues(fine, tissue, low, high):
    mean = fine["chi"][fine["labels"] == LABELS[tissue]].mean()
    assert low < mean < high


def test_statistics_of_a_real_map(fine):
    """COSMOS of the 2016 challenge: sd 0.028, 1st and 99th percentile −0.056 and 0.105 ppm."""
    chi = fine["chi"][fine["mask"] & (fine["labels"] < LABELS["calcification"])]
    assert 0.018 < chi.std() < 0.036
    low, high = np.percentile(chi, (1, 99))
    assert -0.075 < low < -0.035
    assert 0.05 < high < 0.14


def test_tissue_is_not_piecewise_constant(fine):
    for tissue in ("white_matter", "grey_matter", "putamen", "pallidum"):
        assert fine["chi"][fine["labels"] == LABELS[tissue]].std() > 0.006


@pytest.mark.parametrize("tissue", ["caudate", "pallidum", "putamen", "thalamus", "dentate"])
def test_paired_nuclei_lie_on_both_sides(fine, tissue):
    x = np.nonzero(fine["labels"] == LABELS[tissue])[0] - np.nonzero(fine["mask"])[0].mean()
    assert min((x < -1).sum(), (x > 1).sum()) > 0.2 * len(x)


def test_iron_and_blood_shorten_t2star(fine):
    t2star = {k: fine["t2star"][fine["labels"] == v].mean() for k, v in LABELS.items()}
    assert t2star["pallidum"] < t2star["putamen"] < t2star["white_matter"] < t2star["csf"]
    assert t2star["blood"] < t2star["white_matter"]
    higher = draw(1, echo=(0.02, 7.0))["t2star"]
    ratio = draw(1)["t2star"][higher > 0] / higher[higher > 0]
    np.testing.assert_allclose(ratio, (7 / 3) ** R2STAR_EXPONENT, rtol=1e-4)


@pytest.mark.parametrize(
    ("shape", "voxel"),
    [((33, 41, 29), (3.0, 3.0, 3.0)), ((47, 40, 21), (3.5, 4.5, 7.0)), ((24, 24, 24), (1, 1, 1))],
)
def test_any_grid(shape, voxel):
    mask = draw(7, shape, voxel)["mask"]
    assert mask.shape == shape
    assert 0.1 < mask.mean() < 0.6
    assert not any(m.any() for m in (mask[0], mask[-1], mask[:, 0], mask[:, -1], mask[..., -1]))


@pytest.mark.parametrize(
    ("shape", "voxel", "word"), [((8, 40, 40), VOXEL, "16"), (SHAPE, (1, 0, 1), "positive")]
)
def test_bad_grid(shape, voxel, word):
    with pytest.raises(ValueError, match=word):
        draw(1, shape, voxel)


def test_smooth_noise_has_unit_variance_and_the_length_asked_for():
    axis = np.arange(-60.0, 60, 2)
    frame = Frame((axis, axis, axis), np.eye(3), np.zeros(3), 2.0)
    noise = smooth_noise(frame, 4.0, np.random.default_rng(0))
    assert noise.std() == pytest.approx(1, abs=0.1)
    shifted = np.mean(noise[2:] * noise[:-2])  # correlation of a Gaussian filter at 4 mm
    assert shifted == pytest.approx(np.exp(-0.25), abs=0.08)


def run(folder, **changed):
    config = load_config("step0_genPhantom", [])
    genPhantom.main({**config, **CONFIG, "dstFolder": str(folder), **changed})
    return folder / "head_3"


def test_script_writes_a_head_once(tmp_path):
    first = run(tmp_path / "a", b0_dir=(0.0, 0.6, 0.8))
    for name in genPhantom.IMAGES:
        volume = read_volume(first / f"{name}.nii.gz")
        assert volume.data.shape == SHAPE
        np.testing.assert_allclose(volume.voxel_size, VOXEL, rtol=1e-5)
        np.testing.assert_allclose(b0_direction(volume.affine), (0, 0.6, 0.8), atol=1e-6)
        assert np.linalg.det(volume.affine) > 0
    params = json.loads((first / "params.json").read_text())
    assert params["B0_dir"] == pytest.approx([0, 0.6, 0.8])
    assert {k: params[k] for k in ("TE", "B0", "SNR", "seed")} == {
        "TE": 0.025, "B0": 3.0, "SNR": 60.0, "seed": 3}  # fmt: skip
    before = {p.name: (p.stat().st_mtime_ns, p.read_bytes()) for p in first.iterdir()}
    run(tmp_path / "a", b0_dir=(0.0, 0.6, 0.8))
    assert before == {p.name: (p.stat().st_mtime_ns, p.read_bytes()) for p in first.iterdir()}
    (first / "labels.nii.gz").unlink()
    run(tmp_path / "a", b0_dir=(0.0, 0.6, 0.8))
    assert all((first / name).read_bytes() == data for name, (_, data) in before.items())


def test_field_noise_is_what_snr_te_and_b0_give():
    config = {**load_config("step0_genPhantom", []), **CONFIG, "B0": 7.0, "TE": 0.01, "SNR": 20.0}
    noisy = genPhantom.draw_head(config, 3)
    clean = genPhantom.draw_head({**config, "SNR": 0.0}, 3)
    mask = clean["mask"]
    expected = 1 / (20 * 2 * np.pi * 42.577478518 * 7 * 0.01)
    assert genPhantom.noise_level(config) == pytest.approx(expected)
    scaled = (noisy["localfield"] - clean["localfield"])[mask] * clean["magnitude"][mask]
    assert scaled.std() / np.median(clean["magnitude"][mask]) == pytest.approx(expected, rel=0.05)
    assert not noisy["localfield"][~mask].any()


@pytest.mark.parametrize(
    "changed",
    [
        {"TE": 0.0}, {"seeds": []}, {"SNR": -1.0}, {"voxel_size": (1.0, 1.0)},
        {"voxel_size": (1, 1, 0)}, {"voxel_size": (1, 1, "x")}, {"b0_dir": (0, 0, 0)},
        {"b0_dir": (0, "x", 1)}, {"shape": (16.0, 16, 16)}, {"shape": (16, 16, "x")},
        {"shape": (8, 40, 40)},
    ],
)  # fmt: skip
def test_bad_config(tmp_path, changed):
    with pytest.raises(ValueError, match=next(iter(changed))):
        run(tmp_path, **changed)
    assert not list(tmp_path.iterdir())  # not even a config that would refuse the next try


def test_affine_is_centred_and_plain_without_tilt():
    affine = genPhantom.tilted_affine((5, 7, 9), (1.0, 2.0, 3.0), (0, 0, 2))
    np.testing.assert_allclose(affine[:3, :3], np.diag([1.0, 2.0, 3.0]), atol=1e-12)
    np.testing.assert_allclose(affine @ (2, 3, 4, 1), (0, 0, 0, 1), atol=1e-12)
