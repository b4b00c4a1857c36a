"""A scan read from files: working axes, units, weights, B0 direction, and what is refused."""

import json

import nibabel as nib
import numpy as np
import pytest
from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff, ornt_transform
from scans import SHAPE, VOXEL, make_scan, tilted_affine, write_scan
from scipy import ndimage

from network_model.plausibility import scan_warnings, sign_warning, spread_warning
from network_model.subject import GAMMA_MHZ_PER_T, Scan, load_subject, make_subject
from training_data.nifti import b0_direction, read_volume, write_volume

ORIENTATIONS = ("LPS", "SAR", "PIR", "ASL")


@pytest.fixture
def folder(tmp_path):
    write_scan(tmp_path, tilted_affine(20))
    return tmp_path


def files(folder, magnitude=True):
    names = ("field", "mask", "magnitude") if magnitude else ("field", "mask")
    return [folder / f"{n}.nii.gz" for n in names]


def reorient(source, target, codes):
    """A copy of a volume stored with other axes."""
    volume = read_volume(source)
    turn = ornt_transform(axcodes2ornt("RAS"), axcodes2ornt(codes))
    data = apply_orientation(volume.data, turn)
    write_volume(target, data, affine=volume.affine @ inv_ornt_aff(turn, volume.data.shape))


def test_reads_field_mask_weight_and_geometry(folder):
    subject = load_subject(*files(folder))
    scan = make_scan()
    np.testing.assert_allclose(subject.field, scan["field"], atol=1e-7)
    np.testing.assert_array_equal(subject.mask, scan["mask"])
    np.testing.assert_allclose(subject.weight, scan["magnitude"] / scan["magnitude"].max())
    np.testing.assert_allclose(subject.voxel_size, VOXEL, rtol=1e-6)
    np.testing.assert_allclose(subject.b0_dir, (0, np.sin(np.deg2rad(20)), np.cos(np.deg2rad(20))),
                               atol=1e-6)  # fmt: skip
    assert "affine" in subject.notes[-1]
    assert subject.magnitude is subject.weight


def test_without_magnitude_the_weight_is_the_mask(folder):
    subject = load_subject(*files(folder, magnitude=False))
    np.testing.assert_array_equal(subject.weight, subject.mask.astype(np.float32))
    assert subject.magnitude is None
    assert any("no magnitude" in note for note in subject.notes)


@pytest.mark.parametrize("codes", ORIENTATIONS)
def test_stored_axes_do_not_matter(folder, tmp_path, codes):
    whole = load_subject(*files(folder))
    turned = tmp_path / codes
    for name in ("field", "mask", "magnitude"):
        reorient(folder / f"{name}.nii.gz", turned / f"{name}.nii.gz", codes)
    subject = load_subject(*files(turned))
    np.testing.assert_array_equal(subject.field, whole.field)
    np.testing.assert_array_equal(subject.weight, whole.weight)
    np.testing.assert_allclose(subject.b0_dir, whole.b0_dir, atol=1e-6)
    np.testing.assert_allclose(subject.file_b0_dir, b0_direction(subject.grid.affine), atol=1e-6)
    np.testing.assert_array_equal(subject.to_file_axes(subject.field), subject.grid.data)


def test_a_given_b0_direction_is_in_the_axes_of_the_file(folder, tmp_path):
    reorient(folder / "field.nii.gz", tmp_path / "sag/field.nii.gz", "PSR")
    reorient(folder / "mask.nii.gz", tmp_path / "sag/mask.nii.gz", "PSR")
    paths = files(tmp_path / "sag", magnitude=False)
    subject = load_subject(*paths, scan=Scan(b0_dir=(0.6, 0.0, 1.6)))
    # Axes of the file are posterior, superior, right; working axes right, anterior, superior.
    np.testing.assert_allclose(subject.b0_dir, np.array([1.6, -0.6, 0]) / np.hypot(1.6, 0.6))
    np.testing.assert_allclose(subject.file_b0_dir, np.array([0.6, 0, 1.6]) / np.hypot(1.6, 0.6))


@pytest.mark.parametrize(
    ("unit", "factor"),
    [("Hz", GAMMA_MHZ_PER_T * 7), ("rad", 2 * np.pi * GAMMA_MHZ_PER_T * 7 * 0.02)],
)
@pytest.mark.parametrize("from_sidecar", [True, False])
def test_units_and_sign_give_the_same_ppm(folder, unit, factor, from_sidecar):
    wanted = load_subject(*files(folder))
    volume = read_volume(folder / "field.nii.gz")
    write_volume(folder / "field.nii.gz", -volume.data * factor, like=volume)
    numbers = {"b0": 7, "te": 0.02}
    if from_sidecar:
        sidecar = {"MagneticFieldStrength": 7, "EchoTime": 0.02}
        (folder / "field.json").write_text(json.dumps(sidecar))
        numbers = {}
    subject = load_subject(*files(folder), scan=Scan(unit=unit, sign=-1, **numbers))
    np.testing.assert_allclose(subject.field, wanted.field, atol=1e-7)


def test_b0_direction_of_the_sidecar_comes_before_the_affine(folder):
    (folder / "field.json").write_text(json.dumps({"B0_dir": [0, 3, 4]}))
    subject = load_subject(*files(folder))
    np.testing.assert_allclose(subject.b0_dir, (0, 0.6, 0.8))
    assert "field.json" in subject.notes[-1]


def test_a_sidecar_that_contradicts_the_affine_is_doubted(folder):
    (folder / "field.json").write_text(json.dumps({"B0_dir": [0, 0.3, 0.954]}))
    assert not load_subject(*files(folder)).warnings  # 20° is what the affine says
    (folder / "field.json").write_text(json.dumps({"B0_dir": [1, 0, 0]}))
    (warning,) = load_subject(*files(folder)).warnings
    assert "field.json is 90° from scanner z of the affine" in warning
    assert load_subject(*files(folder), scan=Scan(b0_dir=(1, 0, 0))).warnings == []


def test_a_header_without_orientation_is_doubted(folder):
    for name in ("field", "mask"):
        image = nib.load(folder / f"{name}.nii.gz")
        data = np.asarray(image.dataobj)
        bare = nib.Nifti1Image(data, None)
        nib.save(bare, folder / f"{name}.nii.gz")
    (warning,) = load_subject(*files(folder, magnitude=False)).warnings
    assert "field.nii.gz: holds no orientation" in warning
    assert "B0 is taken to be (0.000, 0.000, 1.000)" in warning
    known = load_subject(*files(folder, magnitude=False), scan=Scan(b0_dir=(0, 0, 1)))
    assert known.warnings == []


def test_a_mask_of_shares_is_named(folder):
    mask = read_volume(folder / "mask.nii.gz")
    soft = ndimage.gaussian_filter(mask.data, 1.0)
    write_volume(folder / "mask.nii.gz", np.where(soft > 0.01, soft, 0), affine=mask.affine)
    (warning,) = load_subject(*files(folder)).warnings
    assert "are below half of the largest" in warning
    write_volume(folder / "mask.nii.gz", mask.data * 0.3, affine=mask.affine)
    assert load_subject(*files(folder)).warnings == []
    labels = mask.data * (1 + 40 * (np.indices(mask.data.shape)[0] > 14))
    write_volume(folder / "mask.nii.gz", labels, affine=mask.affine)
    assert load_subject(*files(folder)).warnings == []


def test_a_magnitude_that_rings_below_zero_is_taken(folder):
    magnitude = read_volume(folder / "magnitude.nii.gz")
    inside = np.argwhere(read_volume(folder / "mask.nii.gz").data)
    data = magnitude.data.copy()
    data[tuple(inside[len(inside) // 2])] = -0.01
    write_volume(folder / "magnitude.nii.gz", data, affine=magnitude.affine)
    assert load_subject(*files(folder)).weight.min() == 0


def test_a_sidecar_with_the_mark_of_windows_is_read(folder):
    text = json.dumps({"B0_dir": [0, 0.3, 0.954]})
    (folder / "field.json").write_text(text, encoding="utf-8-sig")
    assert "field.json" in load_subject(*files(folder)).notes[-1]


@pytest.mark.parametrize(("echo", "index"), [(None, 1), (0, 0), (2, 2)])
def test_echo_of_a_4d_magnitude(folder, echo, index):
    magnitude = read_volume(folder / "magnitude.nii.gz")
    echoes = magnitude.data[..., None] * np.array([1, 0.5, 0.2], np.float32)
    echoes[0:10, ..., 1] *= 0.5
    echoes[0:12, ..., 2] *= 0.5
    write_volume(folder / "magnitude.nii.gz", echoes, affine=magnitude.affine)
    subject = load_subject(*files(folder), scan=Scan(echo=echo))
    np.testing.assert_allclose(subject.weight, echoes[..., index] / echoes[..., index].max())
    assert f"echo {index}" in subject.notes[1]


BAD_ARRAYS = {
    "shapes differ": {"mask": np.ones((5, 5, 5))},
    "empty mask": {"mask": np.zeros(SHAPE)},
    "thin mask": {"mask": np.arange(SHAPE[2]) == np.full(SHAPE, 3)},
    "two voxels far apart": {
        "mask": np.pad(np.eye(2)[:, :, None] * np.eye(2)[:, None], [(5, n - 7) for n in SHAPE])
    },
    "zero field": {"field": np.zeros(SHAPE)},
    "fill value": {"field": np.where(np.indices(SHAPE)[0] == 14, 1e30, 0.01)},
    "nan magnitude": {"magnitude": np.where(np.indices(SHAPE)[0] == 14, np.nan, 1)},
    "nan field": {"field": np.full(SHAPE, np.nan)},
    "b0_dir": {"b0_dir": (0, 0, 0)},
    "negative magnitude": {"magnitude": -np.ones(SHAPE)},
    "magnitude shape": {"magnitude": np.ones((2, 2, 2))},
}


@pytest.mark.parametrize("case", BAD_ARRAYS)
def test_bad_arrays_are_refused(case):
    scan = make_scan() | {"b0_dir": (0, 0, 1)} | BAD_ARRAYS[case]
    with pytest.raises(ValueError, match=r"expected|zero|NaN|empty"):
        make_subject(scan["field"], scan["mask"], VOXEL, scan["b0_dir"], scan["magnitude"])


def scaled(factor):
    scan = make_scan()
    spread = np.subtract(*np.percentile(scan["field"][scan["mask"]], (84, 16))) / 2
    return make_subject(scan["field"] * 0.01 / spread * factor, scan["mask"], VOXEL)


@pytest.mark.parametrize(
    ("factor", "words"),
    [(1, None), (2 * np.pi, "2π"), (1 / (2 * np.pi), "2π"), (128, "Hz"), (1e6, "million"),
     (1e-6, "million")],
)  # fmt: skip
def test_implausible_spread_is_named(factor, words):
    warning = spread_warning(scaled(factor))
    assert (warning is None) if words is None else (words in warning)


def test_flipped_sign_is_noticed():
    rng = np.random.default_rng(0)
    shape = (40, 40, 40)
    mask = make_scan(shape)["mask"]
    chi = np.zeros(shape, np.float32)
    for x, y, z in rng.integers(10, 30, (60, 3)):
        chi[x : x + 2, y : y + 2, z : z + 2] = 0.2
    field = make_scan(shape)["field"] * 0
    from training_data.dipole import forward_field

    field = forward_field(chi * mask, (1, 1, 1))
    assert sign_warning(make_subject(field, mask, (1, 1, 1))) is None
    assert "sign -1" in sign_warning(make_subject(-field, mask, (1, 1, 1)))
    assert len(scan_warnings(make_subject(-1e6 * field, mask, (1, 1, 1)))) == 2


@pytest.mark.parametrize(
    ("content", "unit"),
    [
        ({"EchoTime": 20}, "Hz"),
        ({"EchoTime": "20 ms", "MagneticFieldStrength": 3}, "Hz"),
        ({"MagneticFieldStrength": 0}, "ppm"),
    ],
)
def test_a_number_of_the_sidecar_that_is_not_needed_does_not_stop(folder, content, unit):
    (folder / "field.json").write_text(json.dumps(content))
    b0 = None if "MagneticFieldStrength" in content or unit == "ppm" else 3
    subject = load_subject(*files(folder), scan=Scan(unit=unit, b0=b0))
    (note,) = [n for n in subject.notes if "left out" in n]
    assert "field.json" in note
    assert subject.te is None


def test_a_number_of_the_sidecar_that_is_needed_is_named_with_its_file(folder):
    (folder / "field.json").write_text('{"MagneticFieldStrength": "3"}')
    with pytest.raises(ValueError, match=r"MagneticFieldStrength in .*field.json: '3', expected"):
        load_subject(*files(folder), scan=Scan(unit="Hz"))


def test_what_is_not_a_number_outside_the_mask_does_not_matter(folder):
    wanted = load_subject(*files(folder))
    outside = read_volume(folder / "mask.nii.gz").data == 0
    for name in ("field", "magnitude"):
        volume = read_volume(folder / f"{name}.nii.gz")
        write_volume(folder / f"{name}.nii.gz", np.where(outside, np.nan, volume.data), like=volume)
    subject = load_subject(*files(folder))
    np.testing.assert_array_equal(subject.field, wanted.field)
    np.testing.assert_array_equal(subject.weight, wanted.weight)


def test_a_constant_field_has_no_sign(folder):
    scan = make_scan((40, 44, 36))
    assert sign_warning(make_subject(0.01 * scan["mask"], scan["mask"], VOXEL)) is None
