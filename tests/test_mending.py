"""What of a field is trusted: sources show in the field around them, garbage does not."""

import numpy as np
import pytest
from scipy import ndimage

from configs import load_config
from network_model.mending import excess_noise, missing_field, trusted_field, trusted_subject
from network_model.strong import strong_sources, within
from network_model.subject import make_subject, subject_from_config
from training_data.channels import make_channels
from training_data.dipole import forward_field
from training_data.nifti import Volume, write_volume
from training_data.noise import add_complex_noise
from training_data.phantom import make_head

SHAPE, VOXEL, B0 = (81, 90, 77), (1.8, 1.9, 2.1), (0.15, -0.1, 0.98)
GEOMETRY = (VOXEL, B0)


@pytest.fixture(scope="module")
def head():
    """χ, noisy field and mask of an oblique, anisotropic head on an odd grid."""
    made = make_head(SHAPE, VOXEL, np.random.default_rng(6))
    mask = made["mask"]
    field = forward_field(made["chi"], *GEOMETRY)
    field = add_complex_noise(field, mask, None, 0.003, np.random.default_rng(1))
    return made["chi"], field, mask


def ball(place, radius_mm: float) -> np.ndarray:
    """Voxels (X, Y, Z) bool around one."""
    offsets = np.subtract(np.indices(SHAPE).T, place) * VOXEL
    return ((offsets**2).sum(-1) <= radius_mm**2).T


def edge_voxel(mask) -> tuple[int, ...]:
    """A voxel at the lower rim of a mask."""
    places = np.argwhere(mask & ~ndimage.binary_erosion(mask, iterations=2))
    return tuple(places[places[:, 2].argsort(kind="stable")[len(places) // 10]])


def noise_patch(mask):
    """Noise of 0.2 ppm at the rim, (X, Y, Z) float32, and where it is."""
    where = ball(edge_voxel(mask), 8) & mask
    noise = np.random.default_rng(2).normal(0, 0.2, SHAPE) * where
    return noise.astype(np.float32), where


def wrap(mask):
    """Two clusters of voxels inside the brain that are off by 2π at 3 T and 20 ms [ppm]."""
    places = np.argwhere(ndimage.binary_erosion(mask, iterations=8))
    where = np.zeros(SHAPE, bool)
    for place in (places[len(places) // 4], places[len(places) // 2]):
        where |= ball(place, 3.5)
    return (0.39 * where).astype(np.float32), where


def lesion(mask):
    """A source of 2 ppm of 5 mm inside the brain: its field (X, Y, Z) float32, and where it is."""
    places = np.argwhere(ndimage.binary_erosion(mask, iterations=8))
    where = ball(places[len(places) // 3], 5)
    return (forward_field((2 * where).astype(np.float32), *GEOMETRY) * mask).astype(
        np.float32
    ), where


def tv_error(field, chi, mask, where) -> float:
    """Error of a total-variation inverse away from some voxels, over the spread of χ."""
    found = make_channels(field, mask, *GEOMETRY, ["tv"])["tv"]
    away = mask & ~ndimage.binary_dilation(where, iterations=3)
    difference = (found - chi)[away]
    return float((difference - difference.mean()).std() / chi[away].std())


def test_sound_field_is_given_back_as_it_is(head):
    _, field, mask = head
    found = trusted_field(field, mask, *GEOMETRY)
    assert found.field is field
    assert not (found.missing | found.unsupported | found.noisy).any()
    assert not found.background.any()


@pytest.mark.parametrize("step", [1e-5, 1e-4])
def test_field_stored_in_steps_has_no_holes_at_the_rim(head, step):
    _, field, mask = head
    stored = (np.rint(field / step) * step).astype(np.float32)
    assert (stored[mask] == 0).any()
    assert not missing_field(stored, mask, *GEOMETRY).any()


def test_mask_of_twice_the_field_is_refused(head):
    _, field, mask = head
    half = field * (np.arange(SHAPE[0]) < 35)[:, None, None]
    with pytest.raises(ValueError, match=r"zero or mere noise in \d+% of the mask"):
        trusted_field(half, mask, *GEOMETRY)


@pytest.mark.parametrize("spoil", [noise_patch, wrap])
def test_field_without_a_source_is_left_out(head, spoil):
    chi, field, mask = head
    wrong, where = spoil(mask)
    found = trusted_field(field + wrong, mask, *GEOMETRY)
    gone = found.unsupported | found.missing
    assert gone[where].mean() > 0.8
    assert gone[~within(where, 8.0, VOXEL)].mean() < 1e-4
    # What takes its place is closer to the sound field by far, and nothing else has moved much.
    off = np.abs(found.field - field)
    assert off[where].mean() < 0.15 * np.abs(wrong[where]).mean()
    far = mask & ~ndimage.binary_dilation(where, iterations=4)
    assert off[far].max() < 0.02
    errors = [tv_error(x, chi, mask, where) for x in (field, field + wrong, found.field)]
    assert errors[2] < errors[0] + 0.2 * (errors[1] - errors[0])


def brain_and_rim(mask):
    """The mask without its outer 4 mm, and those."""
    brain = ndimage.distance_transform_edt(mask, sampling=VOXEL) > 4
    return brain, mask & ~brain


def test_field_that_ends_before_the_mask_goes_on(head):
    """As where a mask is not eroded with the field: zero at the rim is no field."""
    chi, field, mask = head
    brain, rim = brain_and_rim(mask)
    found = trusted_field(field * brain, mask, *GEOMETRY)
    assert found.missing[rim].mean() > 0.95
    assert not found.missing[brain].any()
    errors = [tv_error(x, chi, mask, rim) for x in (field, field * brain, found.field)]
    assert errors[2] < errors[0] + 0.6 * (errors[1] - errors[0])
    np.testing.assert_allclose(found.field[brain], field[brain], atol=0.02)


def test_noise_around_the_brain_is_no_field(head):
    """As where a mask takes in skull or air."""
    chi, field, mask = head
    brain, rim = brain_and_rim(mask)
    noise = np.random.default_rng(5).normal(0, 0.1, SHAPE).astype(np.float32)
    spoilt = np.where(rim, noise, field)
    found = trusted_field(spoilt, mask, *GEOMETRY)
    assert (found.missing | found.unsupported)[rim].mean() > 0.45
    assert found.missing[brain].mean() < 0.2
    errors = [tv_error(x, chi, mask, rim) for x in (field, spoilt, found.field)]
    assert errors[2] < errors[0] + 0.6 * (errors[1] - errors[0])


def test_fields_with_zeros_here_and_there_have_no_holes(head):
    """Stored in steps of 0.005 ppm, half of a field is zero, and it is measured all the same."""
    _, field, mask = head
    coarse = (np.rint(field / 0.005) * 0.005).astype(np.float32)
    assert (coarse == 0)[mask].mean() > 0.2
    assert missing_field(coarse, mask, *GEOMETRY).mean() < 1e-4
    assert not missing_field(np.zeros(SHAPE, np.float32), mask, *GEOMETRY).any()


def test_offset_is_taken_off_before_anything_is_judged(head):
    _, field, mask = head
    wrong, _ = noise_patch(mask)
    plain = trusted_field(field + wrong, mask, *GEOMETRY)
    shifted = trusted_field(field + wrong + np.float32(0.05) * mask, mask, *GEOMETRY)
    assert shifted.background[mask].mean() == pytest.approx(0.05, abs=5e-4)
    difference = (shifted.field - plain.field)[mask]
    assert np.abs(difference - difference.mean()).mean() < 5e-4
    assert abs(difference.mean()) < 5e-4


def test_every_wrap_of_many_is_found(head):
    """A wrap near another looks like a source for a good part; none of them is called for."""
    _, field, mask = head
    places = np.argwhere(ndimage.binary_erosion(mask, iterations=5))
    chosen = np.random.default_rng(12).choice(places, 12, replace=False)
    where = np.any([ball(place, 3.0) for place in chosen], 0)
    found = trusted_field((field + 0.39 * where).astype(np.float32), mask, *GEOMETRY)
    assert found.unsupported[where].mean() > 0.95
    left = (found.field - field)[where]
    assert np.sqrt((left**2).mean()) < 0.03


def test_field_of_a_mistaken_unit_is_left_as_it_is(head):
    """Nearly every voxel is then a strong source; the unit is what has to be warned of."""
    _, field, mask = head
    wrong, _ = noise_patch(mask)
    found = trusted_field(100 * (field + wrong), mask, *GEOMETRY)
    assert not found.unsupported.any()
    assert np.isfinite(found.field).all()


def test_strong_source_is_supported_by_the_field_around_it(head):
    _, field, mask = head
    added, _ = lesion(mask)
    found = trusted_field(field + added, mask, *GEOMETRY)
    assert not found.unsupported.any()
    np.testing.assert_array_equal(found.field, field + added)


def test_source_stays_where_a_patch_is_left_out(head):
    _, field, mask = head
    added, source = lesion(mask)
    wrong, patch = noise_patch(mask)
    found = trusted_field(field + added + wrong, mask, *GEOMETRY)
    gone = found.unsupported | found.missing
    assert gone[patch].mean() > 0.8
    assert not gone[source].any()
    np.testing.assert_array_equal(found.field[source], (field + added)[source])


def test_source_whose_own_field_is_lost_is_not_lost(head):
    """Left out or not, the field around a void tells of the source."""
    chi, field, mask = head
    added, source = lesion(mask)
    void = np.random.default_rng(4).normal(0, 0.3, SHAPE) * source
    found = trusted_field((field + added + void).astype(np.float32), mask, *GEOMETRY)
    tv = make_channels(found.field, mask, *GEOMETRY, ["tv"])["tv"]
    assert tv[source].mean() > 0.7 * (chi + 2)[source].mean()
    assert strong_sources(tv, mask)[source].all()


def test_places_of_more_noise_count_less(head):
    _, field, mask = head
    where = ball(edge_voxel(mask), 15) & mask
    noise = (np.random.default_rng(3).normal(0, 0.04, SHAPE) * where).astype(np.float32)
    found = trusted_field(field + noise, mask, *GEOMETRY)
    assert found.noisy[where].mean() > 0.6
    assert found.noisy[~ndimage.binary_dilation(where, iterations=4)].mean() < 0.01
    kept = (found.field - field)[where].std()
    assert kept < 0.6 * noise[where].std()


def test_a_constant_and_the_scale_of_a_field_decide_nothing(head):
    _, field, mask = head
    wrong, _ = noise_patch(mask)
    excess = excess_noise(field + wrong, mask, *GEOMETRY)
    shifted = excess_noise(field + wrong + 0.5 * mask, mask, *GEOMETRY)
    np.testing.assert_allclose(shifted, excess, atol=1e-3 * excess.max())
    larger = excess_noise(3 * (field + wrong), mask, *GEOMETRY)
    np.testing.assert_allclose(larger, excess, rtol=1e-3)


def test_subject_keeps_all_but_its_field(head):
    _, field, mask = head
    wrong, _ = noise_patch(mask)
    subject = make_subject(field + wrong, mask, *GEOMETRY, magnitude=1.0 + mask)
    trusted, found = trusted_subject(subject)
    np.testing.assert_array_equal(trusted.field, found.field)
    np.testing.assert_array_equal(trusted.weight, subject.weight)
    assert (trusted.field != subject.field).any()


def test_distance_is_in_millimetres_and_ends_at_the_grid():
    places = np.zeros((9, 8, 7), bool)
    assert not within(places, 5.0, (1.0, 2.0, 3.0)).any()
    places[0, 4, 3] = True
    near = within(places, 4.0, (1.0, 2.0, 3.0))
    distance = ndimage.distance_transform_edt(~places, sampling=(1.0, 2.0, 3.0))
    np.testing.assert_array_equal(near, distance <= 4.0)


@pytest.mark.parametrize("step", ["step4_train", "step5_model_finetune"])
def test_training_and_fine_tuning_leave_bad_field_out(head, tmp_path, capsys, step):
    _, field, mask = head
    wrong, where = noise_patch(mask)
    subject = make_subject(field + wrong, mask, *GEOMETRY)
    files = {"fieldFile": subject.field, "maskFile": mask.astype(np.uint8)}
    for key, data in files.items():
        grid = Volume(data, np.diag([*VOXEL, 1.0]), VOXEL, None)
        write_volume(tmp_path / f"{key}.nii.gz", data, like=grid)
    given = [f"{key}={tmp_path / key}.nii.gz" for key in files] + [f"b0_dir={B0}"]
    mended = subject_from_config(load_config(step, given), "[tag]")
    assert "[tag] warning: no source explains the field in" in capsys.readouterr().out
    assert mended.field[where].std() < 0.2 * subject.field[where].std()
    plain = subject_from_config(load_config(step, [*given, "mend=False"]), "[tag]")
    assert "warning" not in capsys.readouterr().out
    np.testing.assert_allclose(plain.field, subject.field, atol=1e-7)
