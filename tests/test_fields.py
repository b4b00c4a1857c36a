"""Step 2 through its main: the formula, the geometry of each map, noise, skipping, mistakes."""

import numpy as np
import pytest
from maps import SHAPE, VOXEL, contents, make_map, oblique_affine, write_maps

from configs import load_config
from training_data.dipole import forward_field
from training_data.finescan import sampled_field
from training_data.genChi import main as step1
from training_data.nifti import b0_direction, read_volume, write_volume
from training_data.qsmFmapCal_gpu import main
from training_data.samples import read_sample

B0 = (0.1, -0.3, 0.95)


def run(folder, **keys):
    config = load_config("step2_qsmFmapCal", [])
    main(config | {"srcFolder": str(folder), "device": "cpu"} | keys)
    return folder


def field_of(folder, index=0):
    return read_volume(folder / f"map_{index:04d}" / "fmap_suscp.nii.gz")


@pytest.mark.parametrize("pad", [True, False])
def test_field_is_that_of_the_map_in_its_own_geometry(tmp_path, pad):
    run(write_maps(tmp_path, 2, shapes=[SHAPE, (30, 23, 21)]), pad=pad)
    for index, shape in enumerate([SHAPE, (30, 23, 21)]):
        chi, mask = make_map(index, shape)
        field = field_of(tmp_path, index)
        expected = forward_field(chi, VOXEL, B0, pad=pad) * mask
        # Padded, the wrap-around that twice the box leaves differs a little from twice the grid.
        scale = np.abs(expected).max()
        np.testing.assert_allclose(field.data, expected, atol=(0.03 if pad else 1e-5) * scale)
        np.testing.assert_allclose(field.affine, oblique_affine(), atol=1e-5)
        assert not field.data[~mask].any()


def test_direction_is_the_affines_where_no_map_says(tmp_path):
    run(write_maps(tmp_path, 1, b0_dir=()), pad=False)
    chi, mask = make_map(0)
    expected = forward_field(chi, VOXEL, b0_direction(oblique_affine()), pad=False) * mask
    np.testing.assert_allclose(field_of(tmp_path).data, expected, atol=1e-6)


def test_overrides_reach_the_field_and_whoever_reads_the_map_after_it(tmp_path):
    run(write_maps(tmp_path, 1), pad=False, voxel_size=(1, 1, 1), b0_dir=(0, 1, 1))
    chi, mask = make_map(0)
    expected = forward_field(chi, (1, 1, 1), (0, 1, 1), pad=False) * mask
    np.testing.assert_allclose(field_of(tmp_path).data, expected, atol=1e-6)
    sample = read_sample(tmp_path / "map_0000")
    assert sample.voxel_size == (1, 1, 1)
    assert sample.b0_dir == (0, 1, 1)


def test_noise_depends_on_seed_and_index_only(tmp_path):
    keys = {"noise_ppm": [0.004, 0.005], "model_errors": 1.0, "model_errors_chance": 0.5}
    together = run(write_maps(tmp_path / "a", 3), **keys)
    alone = run(write_maps(tmp_path / "b", 3), **keys)
    for index in (0, 2):  # made again, beside others that are there
        (alone / f"map_{index:04d}" / "fmap_suscp.nii.gz").unlink()
    run(alone, **keys)
    assert contents(together) == contents(alone)
    other = run(write_maps(tmp_path / "c", 1), **keys, seed=1)
    clean = run(write_maps(tmp_path / "d", 1))
    noise = (field_of(other).data - field_of(clean).data)[make_map(0)[1]]
    assert np.abs(field_of(other).data - field_of(together).data).max() > 0.001
    assert noise.std() > 0.003


def test_processes_make_the_same_fields(tmp_path):
    keys = {"noise_ppm": [0.004, 0.005], "courses_ppm": [0.001, 0.002]}
    alone = run(write_maps(tmp_path / "a", 3), **keys)
    together = run(write_maps(tmp_path / "b", 3), **keys, processes=2)
    assert contents(together) == contents(alone)


def test_courses_have_the_size_and_the_share_asked_for(tmp_path):
    courses = run(write_maps(tmp_path / "a", 8), courses_ppm=[0.002, 0.004])
    clean = run(write_maps(tmp_path / "b", 8))
    sizes = []
    for index in range(8):
        mask = make_map(index)[1]
        added = (field_of(courses, index).data - field_of(clean, index).data)[mask]
        sizes.append(float(np.sqrt((added**2).mean())))
    drawn = [size for size in sizes if size > 1e-6]
    assert 1 <= len(drawn) <= 7  # courses_chance is one half
    assert all(size * (1 + 1e-4) >= 0.002 and size <= 0.004 * (1 + 1e-4) for size in drawn)


def test_errors_of_background_removal_are_in_the_share_asked_for(tmp_path):
    removed = run(write_maps(tmp_path / "a", 6), removal_chance=0.5)
    clean = run(write_maps(tmp_path / "b", 6))
    other = 0
    for index in range(6):
        mask = make_map(index)[1]
        error = (field_of(removed, index).data - field_of(clean, index).data)[mask]
        other += bool(error.any())
        assert error.std() < 0.9 * field_of(clean, index).data[mask].std()
    assert 1 <= other <= 5


def test_finished_maps_are_skipped_and_leftovers_written_over(tmp_path):
    run(write_maps(tmp_path / "a"))
    whole = contents(tmp_path / "a")
    run(write_maps(tmp_path / "b"))
    kept = tmp_path / "b/map_0000/fmap_suscp.nii.gz"
    time = kept.stat().st_mtime_ns
    (tmp_path / "b/map_0001/fmap_suscp.nii.gz").unlink()
    (tmp_path / "b/map_0001/.fmap_suscp.tmp.nii.gz").write_bytes(b"half a file")
    run(tmp_path / "b")
    assert contents(tmp_path / "b") == whole
    assert kept.stat().st_mtime_ns == time


@pytest.mark.parametrize("processes", [1, 2])
def test_a_bad_map_is_named_and_the_others_are_done(tmp_path, capsys, processes):
    write_maps(tmp_path)
    (tmp_path / "map_0001/Mask.nii.gz").unlink()
    with pytest.raises(ValueError, match="1 of 3 maps failed: map_0001"):
        run(tmp_path, processes=processes)
    assert "map_0001/Mask.nii.gz: no such file" in capsys.readouterr().out
    assert field_of(tmp_path, 2).data.any()


@pytest.mark.parametrize("text", ["{", "{}", "[]", '{"index": null}'])
def test_a_bad_record_is_named(tmp_path, text):
    write_maps(tmp_path, 1)
    (tmp_path / "map_0000/sample.json").write_text(text)
    with pytest.raises(ValueError, match=r"sample\.json: not readable"):
        read_sample(tmp_path / "map_0000")


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"device": "tpu"}, "expected one of auto, cpu, gpu"),
        ({"noise_ppm": [0.01]}, "noise_ppm"),
        ({"noise_ppm": [0, 0.01]}, "noise_ppm"),
        ({"noise_ppm": ["low", "high"]}, "noise_ppm"),
        ({"courses_ppm": [0.01, 0.001]}, "courses_ppm"),
        ({"courses_chance": -1.0}, "courses_chance -1.0"),
        ({"removal_chance": 1.5}, "removal_chance 1.5"),
        ({"processes": 0}, "processes 0"),
        ({"model_errors": 2.0}, "model_errors 2.0"),
        ({"model_error_shares": {"fibres": "a"}}, "model_error_shares: fibres 'a': expected"),
        ({"model_error_shares": {"fibre": 1.0}}, "model_error_shares: unknown"),
        ({"b0_dir": (0, 0, 0)}, "b0_dir"),
        ({"voxel_size": (1, 1)}, "voxel_size"),
    ],
)
def test_bad_options(tmp_path, keys, message):
    write_maps(tmp_path, 1)
    with pytest.raises(ValueError, match=message):
        run(tmp_path, **keys)
    assert not (tmp_path / "config_fields.json").exists()


def test_other_options_in_the_same_folder_are_an_error(tmp_path):
    run(write_maps(tmp_path, 1))
    with pytest.raises(ValueError, match="was made with pad=True, now pad=False"):
        run(tmp_path, pad=False)


def test_no_maps(tmp_path):
    with pytest.raises(ValueError, match="run step 1 first"):
        run(tmp_path)


@pytest.fixture
def fine_maps(tmp_path):
    """Maps of step 1 that lie on half the voxel edge, too."""
    return make_fine(tmp_path)


def make_fine(folder):
    config = load_config("step1_genChi", []) | {
        "chiFile": "/nowhere.nii.gz", "dstFolder": str(folder), "number": 2, "fineChance": 1.0,
        "mixture": {"random_labels": 1}, "shape": (24, 30, 26), "voxelSize": (3.0, 3.0, 3.5),
    }  # fmt: skip
    step1(config)
    return folder


def test_field_of_a_finer_map_is_what_its_voxels_show(fine_maps):
    run(fine_maps, seed=3)
    for index, folder in enumerate(sorted(fine_maps.glob("map_*"))):
        sample, fine = read_sample(folder), read_volume(folder / "suscp_fine.nii").data
        expected = sampled_field(
            fine, (1.5, 1.5, 1.75), sample.b0_dir, sample.sampling,
            np.random.default_rng([3, index, 6]), "cpu",
        )  # fmt: skip
        found, mask = field_of(fine_maps, index).data, sample.mask
        assert not found[~mask].any()
        spread = expected[mask].std()
        # The brain's box is sampled, not the grid: what lies outside wraps around elsewhere.
        assert np.abs(found - expected)[mask].mean() < 0.05 * spread
        plain = forward_field(sample.chi.data, sample.voxel_size, sample.b0_dir)
        assert 0.01 * spread < (found - plain)[mask].std() < spread


def test_a_finer_map_that_is_lost_is_named(fine_maps, capsys):
    write_volume(fine_maps / "map_0000" / "suscp_fine.nii", np.ones((24, 30, 26), np.float32))
    (fine_maps / "map_0001" / "suscp_fine.nii").unlink()
    with pytest.raises(ValueError, match="2 of 2 maps failed"):
        run(fine_maps)
    said = capsys.readouterr()
    assert "suscp_fine.nii: no such file" in said.out + said.err
    assert "expected twice those of suscp.nii.gz, (24, 30, 26)" in said.out + said.err
    (fine_maps / "map_0000" / "suscp_fine.nii").unlink()
    make_fine(fine_maps)  # puts both back
    run(fine_maps)


def test_a_finer_map_does_not_wrap_around(fine_maps, capsys):
    with pytest.raises(ValueError, match="2 of 2 maps failed"):
        run(fine_maps, pad=False)
    said = capsys.readouterr()
    assert "set pad=True" in said.out + said.err
