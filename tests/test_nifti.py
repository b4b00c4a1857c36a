"""NIfTI at the door: round trips of place, units and type; every error names the file."""

import gzip
import itertools
import os
import time

import nibabel as nib
import numpy as np
import pytest

from training_data.nifti import (
    Volume,
    b0_direction,
    check_same_grid,
    from_canonical,
    read_mask,
    read_volume,
    scanner_affine,
    to_canonical,
    write_volume,
)

SHAPE = (7, 6, 9)
ORIENTATIONS = ["".join(codes) for order in itertools.permutations(["RL", "AP", "SI"])
                for codes in itertools.product(*order)]  # fmt: skip


def rotation(degrees=(10, -20, 30)):
    out = np.eye(3)
    for axis, angle in enumerate(np.radians(degrees)):
        turn, (i, j) = np.eye(3), [(1, 2), (0, 2), (0, 1)][axis]
        turn[i, i] = turn[j, j] = np.cos(angle)
        turn[i, j], turn[j, i] = -np.sin(angle), np.sin(angle)
        out = turn @ out
    return out


def oblique_affine(voxel_size=(0.8, 1.1, 1.6)):
    affine = np.eye(4)
    affine[:3, :3] = rotation() * voxel_size
    affine[:3, 3] = (-31.5, 12.25, 7)
    return affine


def save(path, data, affine=None, **codes):
    image = nib.Nifti1Image(data, oblique_affine() if affine is None else affine)
    image.header.set_xyzt_units("mm", "sec")
    image.set_qform(image.affine, codes.get("qform", 1))
    image.set_sform(image.affine, codes.get("sform", 2))
    nib.save(image, path)
    return path


def random_data(shape=SHAPE):
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("codes", [(1, 2), (1, 0), (0, 1), (3, 4)])
def test_round_trip_keeps_place_units_and_codes(tmp_path, suffix, codes):
    data = random_data()
    source = save(tmp_path / f"a{suffix}", data, qform=codes[0], sform=codes[1])
    volume = read_volume(source)
    assert volume.data.dtype == np.float32
    assert volume.data.flags.c_contiguous
    np.testing.assert_allclose(volume.voxel_size, (0.8, 1.1, 1.6), rtol=1e-5)
    write_volume(tmp_path / f"b{suffix}", volume.data * 2, like=volume)
    image = nib.load(tmp_path / f"b{suffix}")
    assert image.get_data_dtype() == np.float32
    assert image.header.get_xyzt_units() == ("mm", "sec")
    assert (int(image.header["qform_code"]), int(image.header["sform_code"])) == codes
    np.testing.assert_allclose(image.affine, oblique_affine(), atol=1e-4)
    np.testing.assert_array_equal(np.asarray(image.dataobj), data * 2)


def turned(degrees):
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[1, 0, 0, 0], [0, c, -s, 0], [0, s, c, 0], [0, 0, 0, 1]])


@pytest.mark.parametrize(
    ("qform", "sform", "taken", "words"),
    [
        ((1, 30), (2, 0), 30, "put B0 30° apart; the qform was taken"),
        ((1, 30), (4, 0), 30, "sform (code 4"),
        ((1, 30), (1, 0), 0, ""),
        ((2, 30), (1, 0), 0, ""),
        ((1, 0.5), (2, 0), 0, ""),
        ((1, 30), (0, 0), 30, ""),
        ((0, 30), (0, 0), 0, "holds no orientation"),
    ],
)
def test_b0_is_along_z_of_the_scanners_form(tmp_path, qform, sform, taken, words):
    image = nib.Nifti1Image(random_data(), None)
    image.set_qform(turned(qform[1]), qform[0])
    image.set_sform(turned(sform[1]), sform[0])
    nib.save(image, tmp_path / "a.nii")
    volume = read_volume(tmp_path / "a.nii")
    affine, doubt = scanner_affine(volume)
    angle = np.radians(taken)
    np.testing.assert_allclose(b0_direction(affine), (0, np.sin(angle), np.cos(angle)), atol=1e-4)
    assert words in doubt
    assert bool(words) == bool(doubt)
    if not qform[0] + sform[0]:
        return
    write_volume(tmp_path / "b.nii", volume.data, like=volume)
    written = nib.load(tmp_path / "b.nii").header
    for name, (code, _) in (("qform", qform), ("sform", sform)):
        if code:  # both forms are kept as they were
            own = getattr(image.header, f"get_{name}")()
            np.testing.assert_allclose(getattr(written, f"get_{name}")(), own, atol=1e-4)


def test_a_broken_qform_beside_an_sform_does_no_harm(tmp_path):
    path = save(tmp_path / "a.nii", random_data(), qform=1, sform=2)
    raw = bytearray(path.read_bytes())
    raw[256:260] = np.float32(3).tobytes()  # quatern_b: no unit quaternion has it
    path.write_bytes(raw)
    volume = read_volume(path)
    assert scanner_affine(volume) == (pytest.approx(volume.affine), "")
    write_volume(tmp_path / "b.nii", volume.data, like=volume)
    np.testing.assert_allclose(nib.load(tmp_path / "b.nii").affine, volume.affine, atol=1e-4)


def test_units_that_nibabel_has_no_name_for_are_kept(tmp_path):
    image = nib.Nifti1Image(random_data(), oblique_affine())
    image.header["xyzt_units"] = 5
    nib.save(image, tmp_path / "a.nii")
    volume = read_volume(tmp_path / "a.nii")
    write_volume(tmp_path / "b.nii", volume.data, like=volume)
    assert int(nib.load(tmp_path / "b.nii").header["xyzt_units"]) == 5


def test_a_file_without_codes_gets_the_affine_it_was_read_with(tmp_path):
    volume = read_volume(save(tmp_path / "a.nii", random_data(), qform=0, sform=0))
    write_volume(tmp_path / "b.nii", volume.data, like=volume)
    np.testing.assert_allclose(nib.load(tmp_path / "b.nii").affine, volume.affine, atol=1e-6)


@pytest.mark.parametrize(
    ("given", "stored"),
    [(bool, np.uint8), (np.uint8, np.uint8), (np.int64, np.float32), (np.float64, np.float32)],
)
def test_types_of_a_file(tmp_path, given, stored):
    write_volume(tmp_path / "a.nii.gz", np.ones(SHAPE, given), affine=oblique_affine())
    image = nib.load(tmp_path / "a.nii.gz")
    assert image.get_data_dtype() == stored
    assert image.header.get_xyzt_units()[0] == "mm"
    np.testing.assert_allclose(image.affine, oblique_affine(), atol=1e-5)


def test_scaled_integers_are_read_as_what_they_mean(tmp_path):
    image = nib.Nifti1Image(np.arange(24, dtype=np.int16).reshape(2, 3, 4), np.eye(4))
    image.header.set_slope_inter(0.5, -1)
    nib.save(image, tmp_path / "a.nii")
    stored = np.asarray(nib.load(tmp_path / "a.nii").dataobj)
    np.testing.assert_allclose(read_volume(tmp_path / "a.nii").data, stored)


def test_ends_of_length_one_are_dropped(tmp_path):
    assert read_volume(save(tmp_path / "a.nii", random_data((7, 6, 9, 1)))).data.shape == SHAPE
    path = save(tmp_path / "b.nii", random_data((7, 6, 9, 2)))
    assert read_volume(path, (3, 4)).data.shape == (7, 6, 9, 2)


@pytest.mark.parametrize("codes", ORIENTATIONS)
def test_canonical_round_trip(codes):
    current = nib.orientations.io_orientation(oblique_affine())
    wanted = nib.orientations.axcodes2ornt(codes)
    turn = nib.orientations.ornt_transform(current, wanted)
    data = nib.orientations.apply_orientation(random_data(), turn)
    affine = oblique_affine() @ nib.orientations.inv_ornt_aff(turn, SHAPE)
    volume = Volume(data, affine, tuple(np.linalg.norm(affine[:3, :3], axis=0)))
    canonical = to_canonical(volume)
    assert nib.aff2axcodes(canonical.affine) == ("R", "A", "S")
    np.testing.assert_array_equal(canonical.data, random_data())
    np.testing.assert_allclose(canonical.affine, oblique_affine(), atol=1e-9)
    np.testing.assert_allclose(canonical.voxel_size, (0.8, 1.1, 1.6))
    np.testing.assert_array_equal(from_canonical(canonical.data, volume), data)


@pytest.mark.parametrize(("shear", "accepted"), [(0.0, True), (0.008, True), (0.03, False)])
def test_sheared_grids_are_refused(tmp_path, shear, accepted):
    affine = oblique_affine()
    affine[:3, 1] += shear * 1.1 / 0.8 * affine[:3, 0]  # by that cosine, about
    image = nib.Nifti1Image(random_data(), None)
    image.set_sform(affine, 1)
    nib.save(image, tmp_path / "a.nii.gz")
    if accepted:
        np.testing.assert_allclose(read_volume(tmp_path / "a.nii.gz").affine, affine, atol=1e-5)
        return
    with pytest.raises(ValueError, match=r"a\.nii\.gz: sheared.* 0\.030.*; resample it"):
        read_volume(tmp_path / "a.nii.gz")


def test_b0_direction_is_scanner_z_in_voxel_axes():
    np.testing.assert_allclose(b0_direction(np.diag([1, 2, 3, 1])), (0, 0, 1))
    np.testing.assert_allclose(b0_direction(np.diag([-1, -2, -3, 1])), (0, 0, -1))
    sagittal = np.array([[0, 0, 1.2], [0.9, 0, 0], [0, 0.7, 0]])
    np.testing.assert_allclose(b0_direction(np.pad(sagittal, (0, 1))), (0, 1, 0))
    direction = b0_direction(oblique_affine())
    np.testing.assert_allclose(direction, rotation().T @ (0, 0, 1))
    assert np.linalg.norm(direction) == pytest.approx(1)
    # A step of one mm along it in voxel axes is a step along z in the scanner.
    step = oblique_affine()[:3, :3] @ (direction / (0.8, 1.1, 1.6))
    np.testing.assert_allclose(step, (0, 0, 1), atol=1e-12)


def _truncated(path):
    save(path, random_data())
    path.write_bytes(path.read_bytes()[:300])


def _not_nifti(path):
    path.write_bytes(gzip.compress(b"no image" * 100))


def _with_nan(path):
    data = random_data()
    data[3, 2, 1] = np.nan
    save(path, data)


def _unplaced(path):
    affine = oblique_affine()
    affine[:3, 1] = affine[:3, 0]
    save(path, random_data(), oblique_affine())
    image = nib.load(path)
    image.set_sform(affine, 1)
    image.set_qform(None, 0)
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj), None, image.header), path)


BROKEN = {
    "missing": (lambda path: None, "no such file"),
    "truncated": (_truncated, "truncated"),
    "not an image": (_not_nifti, "not a readable NIfTI"),
    "NaN": (_with_nan, "1 voxels are NaN"),
    "too large": (lambda p: save(p, random_data().astype(float) * 1e300), "infinite in float32"),
    "4-D": (lambda p: save(p, random_data((7, 6, 9, 3))), "expected a 3-D volume"),
    "2-D": (lambda p: save(p, random_data((7, 6))), "expected a 3-D volume"),
    "complex": (lambda p: save(p, random_data().astype(np.complex64)), "expected real numbers"),
    "affine": (_unplaced, "not invertible"),
    "metres": (lambda p: save(p, random_data(), np.diag([0.0008] * 3 + [1])), "header's units"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files(tmp_path, name):
    make, message = BROKEN[name]
    path = tmp_path / "scan.nii.gz"
    make(path)
    with pytest.raises(ValueError, match=message) as error:
        read_volume(path)
    assert str(path) in str(error.value)


def test_masks(tmp_path):
    scan = read_volume(save(tmp_path / "scan.nii.gz", random_data()))
    mask = np.zeros(SHAPE, np.int16)
    mask[2:5, 1:4, 3:8] = -3
    found, volume = read_mask(save(tmp_path / "mask.nii.gz", mask), like=scan)
    assert found.dtype == bool
    assert found.sum() == 45
    assert volume.path.endswith("mask.nii.gz")
    with pytest.raises(ValueError, match=r"empty.nii: the mask is empty"):
        read_mask(save(tmp_path / "empty.nii", mask * 0))
    small = save(tmp_path / "small.nii", mask[:-1])
    with pytest.raises(ValueError, match=r"small.nii: shape \(6, 6, 9\) differs from \(7, 6, 9\)"):
        read_mask(small, like=scan)
    moved = oblique_affine()
    moved[0, 3] += 0.5
    moved = save(tmp_path / "moved.nii", mask, moved)
    with pytest.raises(ValueError, match=r"moved.nii: lies up to 0.50 mm off"):
        read_mask(moved, like=scan)


def test_rounded_affines_are_the_same_grid():
    a = Volume(random_data(), oblique_affine(), (0.8, 1.1, 1.6))
    b = Volume(a.data, a.affine + 1e-4 * np.pad(np.ones((3, 4)), ((0, 1), (0, 0))), a.voxel_size)
    check_same_grid(a, b)


def test_other_suffixes_are_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"ends in .nii or .nii.gz"):
        write_volume(tmp_path / "a.mgz", random_data())
    assert not list(tmp_path.iterdir())


def test_files_are_the_same_bytes_at_any_time(tmp_path, monkeypatch):
    monkeypatch.setattr(time, "time", lambda: 1e9)
    write_volume(tmp_path / "a.nii.gz", random_data(), affine=oblique_affine())
    monkeypatch.setattr(time, "time", lambda: 2e9)
    write_volume(tmp_path / "other.nii.gz", random_data(), affine=oblique_affine())
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "other.nii.gz").read_bytes()


def test_a_file_is_whole_or_absent(tmp_path, monkeypatch):
    path = tmp_path / "folder" / "a.nii.gz"
    write_volume(path, random_data())
    kept = path.read_bytes()

    def killed(*names):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        write_volume(path, random_data() * 3)
    assert path.read_bytes() == kept
    assert [p.name for p in path.parent.iterdir()] == ["a.nii.gz"]
    monkeypatch.undo()
    write_volume(path, random_data() * 3)
    assert [p.name for p in path.parent.iterdir()] == ["a.nii.gz"]
