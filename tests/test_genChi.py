"""Step 1 as a script: same seed same bytes, resume, options, bad input."""

import hashlib
import json
import shutil

import numpy as np
import pytest

from configs import load_config
from training_data import finescan, genChi
from training_data.nifti import b0_direction, read_mask, read_volume, to_canonical, write_volume
from training_data.samples import for_each_map
from training_data.shapes import ellipsoid

SHAPE, VOXEL = (34, 40, 29), (4.0, 3.5, 5.0)
AFFINE = np.array([[-4.0, 0, 0, 60], [0, 3.3, -1.7, -70], [0, 1.2, 4.7, -50], [0, 0, 0, 1]])
FILES = ("suscp.nii.gz", "Mask.nii.gz", "sample.json")


@pytest.fixture(scope="module")
def chi_file(tmp_path_factory):
    rng = np.random.default_rng(0)
    mask = ellipsoid(SHAPE, (16, 20, 14), (14, 17, 12))
    chi = rng.normal(0, 0.03, SHAPE).astype(np.float32) * mask
    chi[16, 20, 14] = 0  # a zero in the brain must not become a hole in the mask
    path = tmp_path_factory.mktemp("source") / "chi.nii.gz"
    write_volume(path, chi, affine=AFFINE)
    write_volume(path.with_name("mask.nii.gz"), mask, affine=AFFINE)
    return path


@pytest.fixture
def run(chi_file, tmp_path):
    def run_step1(folder="out", **changed):
        config = load_config("step1_genChi", []) | {
            "chiFile": str(chi_file),
            "maskFile": str(chi_file.with_name("mask.nii.gz")),
            "dstFolder": str(tmp_path / folder),
            "number": 4,
            "erosionRadius": 4.0,
            "positiveChance": 0.5,
            "negativeChance": 0.5,
        }
        genChi.main(config | changed)
        return tmp_path / folder

    return run_step1


def digests(folder, names=FILES):
    return {
        f"{p.parent.name}/{p.name}": hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.glob("map_*/*"))
        if p.name in names
    }


def test_files_grid_and_record(run, chi_file):
    folder = run()
    assert sorted(p.name for p in folder.iterdir()) == [
        "config.json", "map_0000", "map_0001", "map_0002", "map_0003",
    ]  # fmt: skip
    source = to_canonical(read_volume(chi_file))
    for index, sample in enumerate(sorted(folder.glob("map_*"))):
        assert sorted(p.name for p in sample.iterdir()) == sorted(FILES)
        chi = read_volume(sample / "suscp.nii.gz")
        mask, _ = read_mask(sample / "Mask.nii.gz", like=chi)
        np.testing.assert_allclose(chi.affine, source.affine, atol=1e-5)
        assert chi.data.shape == SHAPE
        assert not chi.data[~mask].any()
        assert mask.sum() > 500
        record = json.loads((sample / "sample.json").read_text())
        assert (record["seed"], record["index"], record["kind"]) == (0, index, "chi_map")
        np.testing.assert_allclose(record["b0_dir"], b0_direction(source.affine), atol=1e-6)
        np.testing.assert_allclose(record["voxel_size"], source.voxel_size, rtol=1e-6)
    assert json.loads((folder / "config.json").read_text())["number"] == 4


def test_sources_of_the_record_are_in_the_map(run):
    folder = run(number=6, contrasts=["none"], sourceShapes={"sphere": 1.0}, sourceAxes=(4, 9))
    for sample in folder.glob("map_*"):
        chi = read_volume(sample / "suscp.nii.gz").data
        sources = json.loads((sample / "sample.json").read_text())["sources"]
        signs = {np.sign(s["ppm"]) for s in sources}
        assert len(sources) == (4 if signs == {1.0} else 2)
        for source in sources:
            assert abs(abs(source["ppm"]) - 2) < 0.6
            value = chi[tuple(source["centre"])] * np.sign(source["ppm"])
            assert value > 1.2  # values add where sources overlap, so never less than one of them


def test_same_seed_same_bytes_alone_or_in_a_run(run):
    whole = digests(run())
    assert len(whole) == 12
    assert digests(run("again")) == whole
    alone = digests(run("alone", first=3, number=1))
    assert alone == {k: v for k, v in whole.items() if k.startswith("map_0003")}
    other = digests(run("other", seed=1))
    assert other["map_0000/suscp.nii.gz"] != whole["map_0000/suscp.nii.gz"]
    assert whole["map_0000/suscp.nii.gz"] != whole["map_0001/suscp.nii.gz"]


def test_resume_after_a_kill_and_extension(run):
    folder = run()
    whole = digests(folder)
    shutil.rmtree(folder / "map_0001")
    (folder / "map_0002" / "Mask.nii.gz").unlink()
    (folder / "map_0002" / "fmap_suscp.nii.gz").write_bytes(b"of step 2")
    half = folder / ".map_0001.tmp"
    half.mkdir()
    (half / "suscp.nii.gz").write_bytes(b"half a file")
    kept = (folder / "map_0000" / "suscp.nii.gz").stat().st_mtime_ns
    run(number=5)
    assert (folder / "map_0000" / "suscp.nii.gz").stat().st_mtime_ns == kept
    assert {k: v for k, v in digests(folder).items() if "map_0004" not in k} == whole
    assert (folder / "map_0002" / "fmap_suscp.nii.gz").read_bytes() == b"of step 2"
    assert (folder / "map_0004" / "sample.json").is_file()
    assert not [p for p in folder.iterdir() if p.name.startswith(".")]


def test_kill_while_writing_leaves_no_map(run, monkeypatch):
    write = genChi.write_volume

    def killed_at_the_mask(path, *args, **kwargs):
        if path.name == "Mask.nii.gz":
            raise KeyboardInterrupt
        write(path, *args, **kwargs)

    monkeypatch.setattr(genChi, "write_volume", killed_at_the_mask)
    with pytest.raises(KeyboardInterrupt):
        run("killed", number=1)
    monkeypatch.undo()
    assert digests(run("killed", number=1)) == digests(run("whole", number=1))


def test_another_config_in_the_same_folder_is_refused(run):
    run(number=1)
    with pytest.raises(ValueError, match=r"elasticAlpha=2\.0, now elasticAlpha=1\.0"):
        run(number=1, elasticAlpha=1.0)


def test_other_files_of_the_same_name_are_refused(run, chi_file, tmp_path):
    chi, mask = (tmp_path / name for name in ("chi.nii.gz", "mask.nii.gz"))
    keys = {"number": 1, "chiFile": str(chi), "maskFile": str(mask)}
    for file in (chi, mask):
        shutil.copy(chi_file.with_name(file.name), file)
    run(**keys)
    run(**keys)
    for file in (chi, mask):
        kept, volume = file.read_bytes(), read_volume(file)
        write_volume(file, volume.data * 0.5, like=volume)
        name = f"{file.name.partition('.')[0]}_sha256"
        with pytest.raises(ValueError, match=f"was made with {name}=.*, now {name}="):
            run(**keys)
        file.write_bytes(kept)
    run(**keys)


@pytest.mark.parametrize("elastic", ["inplane", "3d"])
def test_maps_do_not_depend_on_how_the_file_is_stored(run, chi_file, tmp_path, elastic):
    """Sagittal slices: the first axis of the file runs along −y, the second along z."""
    turned = tmp_path / "turned"
    for name in ("chi.nii.gz", "mask.nii.gz"):
        volume = read_volume(chi_file.with_name(name))
        data = volume.data.transpose(1, 2, 0)[::-1]
        affine = volume.affine[:, [1, 2, 0, 3]]
        affine[:, 3] += (SHAPE[1] - 1) * affine[:, 0]
        affine[:, 0] *= -1
        write_volume(turned / name, data, affine=affine)
    keys = {"number": 1, "elastic": elastic}
    whole = run("as_it_is", **keys)
    files = {k: str(turned / f"{n}.nii.gz") for k, n in (("chiFile", "chi"), ("maskFile", "mask"))}
    again = run("again", **keys, **files)
    a, b = (read_volume(folder / "map_0000/suscp.nii.gz") for folder in (whole, again))
    np.testing.assert_allclose(b.affine, a.affine, atol=1e-4)
    np.testing.assert_allclose(b.data, a.data, atol=1e-6)


def test_maps_do_not_depend_on_the_number_of_processes(run):
    options = {"mixture": {"random_labels": 1, "phantom": 1}, "shape": (96, 96, 80), "number": 2}
    options |= {"chiFile": "/nowhere.nii.gz", "maskFile": None}
    one, two = (digests(run(f"out{n}", processes=n, **options)) for n in (1, 2))
    assert one == two


def test_a_failing_map_is_named_and_the_others_are_made(run, monkeypatch, capsys):
    make = genChi.make_sample

    def fails_at_two(config, source, index):
        if index == 2:
            raise ValueError("nothing is left of the brain")
        return make(config, source, index)

    monkeypatch.setattr(genChi, "make_sample", fails_at_two)
    with pytest.raises(ValueError, match="1 of 4 maps failed: map_0002"):
        run("failing")
    assert "nothing is left" in capsys.readouterr().out
    folder = run("failing", number=2)
    assert sorted(p.name for p in folder.glob("map_*")) == ["map_0000", "map_0001", "map_0003"]


@pytest.mark.parametrize(
    "work",
    [lambda folder: np.zeros(10**15), lambda folder: _raise(RuntimeError("CUDA out of memory."))],
    ids=["NumPy", "PyTorch"],
)
def test_a_map_that_needs_too_much_memory_is_named(tmp_path, capsys, work):
    with pytest.raises(ValueError, match="1 of 1 maps failed: map_0000"):
        for_each_map([tmp_path / "map_0000"], work, "[tag]", 1)
    assert "map_0000: out of memory; fewer processes need less" in capsys.readouterr().out
    with pytest.raises(RuntimeError, match="a bug"):
        for_each_map([tmp_path], lambda folder: _raise(RuntimeError("a bug")), "[tag]", 1)


def _raise(error):
    raise error


def test_an_option_leaves_the_other_stages_as_they_were(run):
    plain, tilted = run("plain"), run("tilted", tilt_deg=40.0)
    for sample in sorted(plain.glob("map_*")):
        twin = tilted / sample.name
        assert (sample / "suscp.nii.gz").read_bytes() == (twin / "suscp.nii.gz").read_bytes()
        straight, turned = (
            json.loads((s / "sample.json").read_text())["b0_dir"] for s in (sample, twin)
        )
        assert np.degrees(np.arccos(np.dot(straight, turned))) <= 40.001
    veins = run("veins", veins=9)
    changed = read_volume(veins / "map_0001" / "suscp.nii.gz").data
    same = read_volume(plain / "map_0001" / "suscp.nii.gz").data
    assert (changed != same).any()
    assert (changed == same).mean() > 0.8


def test_every_option_at_once(run, chi_file):
    folder = run(
        number=6, elastic="3d", flips=True, veins=6, maskErosion=1, maskHoles=2, tilt_deg=30.0,
        voxel_size_range=(0.8, 1.3), anisotropicChance=0.5, sourceRange=(0.3, 4.0),
        sourceShapes={"cuboid": 0.5, "cylinder": 0.5}, elasticAffine=0.05,
        mixture={"chi_map": 1, "random_labels": 1}, shape=(36, 44, 40),
    )  # fmt: skip
    kinds = set()
    for sample in folder.glob("map_*"):
        chi = read_volume(sample / "suscp.nii.gz")
        mask, _ = read_mask(sample / "Mask.nii.gz", like=chi)
        record = json.loads((sample / "sample.json").read_text())
        kinds.add(record["kind"])
        assert chi.data.shape == (SHAPE if record["kind"] == "chi_map" else (36, 44, 40))
        np.testing.assert_allclose(chi.voxel_size, record["voxel_size"], rtol=1e-5)
        factors = np.array(record["voxel_size"]) / read_volume(chi_file).voxel_size
        assert factors[0] == pytest.approx(factors[1], rel=1e-5)
        assert 0.8 <= factors[0] <= 1.3
        assert 0.999 <= factors[2] / factors[0] <= 2
        assert {s["shape"] for s in record["sources"]} <= {"cuboid", "cylinder"}
        assert all(0.3 <= abs(s["ppm"]) <= 4 for s in record["sources"])
        assert not chi.data[~mask].any()
    assert kinds == {"chi_map", "random_labels"}


def test_without_a_map_and_from_a_phantom(run):
    folder = run(
        number=1, chiFile="/nowhere.nii.gz", mixture={"phantom": 1}, shape=(40, 44, 40),
        voxelSize=(4.5, 4.5, 4.5),
    )  # fmt: skip
    chi = read_volume(folder / "map_0000" / "suscp.nii.gz")
    np.testing.assert_allclose(chi.voxel_size, 4.5, rtol=1e-6)
    assert 0.005 < chi.data[chi.data != 0].std() < 0.5


def test_flat_phantom_has_one_susceptibility_per_tissue(run):
    options = {"number": 1, "shape": (48, 56, 48), "voxelSize": (3.5, 3.5, 3.5), "elastic": "none"}
    options |= {"contrasts": ["none"], "positiveChance": 0.0, "negativeChance": 0.0}
    options |= {"chiFile": "/nowhere.nii.gz", "erosionRadius": 0}
    flat, plain = (
        read_volume(run(kind, mixture={kind: 1}, **options) / "map_0000" / "suscp.nii.gz").data
        for kind in ("flat_phantom", "phantom")
    )
    np.testing.assert_array_equal(flat != 0, plain != 0)
    values, counts = np.unique(flat[flat != 0], return_counts=True)
    assert 6 <= len(values) <= 20
    assert len(np.unique(plain)) > 1000
    # Tissues stay where they are: most of the variance of the head is between them.
    within = sum(
        (plain[flat == value].std() ** 2) * n for value, n in zip(values, counts, strict=True)
    )
    assert within < 0.6 * plain[flat != 0].var() * counts.sum()


def test_maps_on_half_the_voxel_edge(run):
    options = {"chiFile": "/nowhere.nii.gz", "shape": (24, 30, 26), "voxelSize": (6.0, 6.0, 7.0)}
    options |= {"mixture": {"random_labels": 1}, "flips": True, "veins": 3}
    options |= {"positiveChance": 0.8, "negativeChance": 0.2}
    folder = run("fine", number=4, fineChance=1.0, erosionRadius=0, **options)
    again = run("again", number=4, fineChance=0.5, erosionRadius=0, **options)
    samplings = set()
    for sample in sorted(folder.glob("map_*")):
        chi, fine = (read_volume(sample / name) for name in ("suscp.nii.gz", "suscp_fine.nii"))
        mask, _ = read_mask(sample / "Mask.nii.gz", like=chi)
        record = json.loads((sample / "sample.json").read_text())
        samplings.add(record["sampling"])
        assert fine.data.shape == (48, 60, 52)
        np.testing.assert_allclose(fine.voxel_size, (3, 3, 3.5))
        expected = finescan.sampled(fine.data, record["sampling"]).real * mask
        np.testing.assert_allclose(chi.data, expected, atol=1e-6)
        # The middle of the first eight fine voxels is that of the first voxel.
        np.testing.assert_allclose(
            fine.affine @ (0.5, 0.5, 0.5, 1), chi.affine @ (0, 0, 0, 1), atol=1e-5
        )
        for source in record["sources"]:
            assert "centre" not in source or np.all(np.array(source["centre"]) < chi.data.shape)
        twin = again / sample.name
        if (twin / "suscp_fine.nii").is_file():
            assert (twin / "sample.json").read_bytes() == (sample / "sample.json").read_bytes()
    assert samplings <= set(finescan.SAMPLINGS)
    assert 0 < len(list(again.glob("*/suscp_fine.nii"))) < 4
    plain = run("plain", number=1, fineChance=1.0)  # of a χ map there is nothing finer
    assert not list(plain.glob("*/suscp_fine.nii"))


def test_mask_defaults_to_where_the_map_is_not_zero(run):
    with_file = run("with", number=1, elastic="none")
    without = run("without", number=1, elastic="none", maskFile=None)
    a, b = (read_mask(f / "map_0000" / "Mask.nii.gz")[0] for f in (with_file, without))
    assert (a & ~b).sum() > 0  # the one zero voxel
    assert not (b & ~a).any()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"chiFile": "/nowhere/chi.nii.gz"}, "no such file"),
        ({"number": 0}, "number"),
        ({"seed": -1}, "seed"),
        ({"elastic": "2d"}, "elastic"),
        ({"contrasts": ["cubic"]}, "contrasts"),
        ({"sourceShapes": {"cone": 1}}, "source shapes"),
        ({"sourceAxes": (5, 1)}, "sourceAxes"),
        ({"sourceRange": (0.3,)}, "sourceRange"),
        ({"voxel_size_range": (0, 1)}, "voxel_size_range"),
        ({"positiveChance": 0.9}, "positiveChance"),
        ({"positiveNumber": -1}, "positiveNumber -1: expected 0 or more"),
        ({"anisotropicChance": 5.0}, "anisotropicChance 5.0: expected a number from 0 to 1"),
        ({"mixture": {"heads": 1}}, "mixture"),
        ({"mixture": {"chi_map": 0}}, "mixture"),
        ({"shape": (40, 40)}, "shape"),
        ({"shape": 128}, "shape 128: expected three whole numbers"),
        ({"voxelSize": (1, 1, 0)}, "voxel_size"),
        ({"erosionRadius": 200.0}, "1 of 1 maps failed"),
        ({"maskErosion": 900}, "1 of 1 maps failed"),
    ],
)
def test_bad_input(run, changed, message):
    with pytest.raises(ValueError, match=message):
        run(**{"number": 1, **changed})


def test_mask_of_another_shape_and_empty_map(run, tmp_path):
    write_volume(tmp_path / "mask.nii", np.ones((5, 6, 7), bool))
    with pytest.raises(ValueError, match="shape"):
        run(maskFile=str(tmp_path / "mask.nii"))
    write_volume(tmp_path / "zero.nii", np.zeros(SHAPE))
    with pytest.raises(ValueError, match="all voxels are zero"):
        run(chiFile=str(tmp_path / "zero.nii"), maskFile=None)
