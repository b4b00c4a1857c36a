"""Step 6: any orientation, size and unit; sidecar, reference, alignment; what is refused."""

import gzip
import hashlib
import json
import re
import shutil
import sys
import types

import h5py
import nibabel as nib
import numpy as np
import pytest
from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff, ornt_transform
from scans import (
    INVERSION,
    KERAS_ON_NUMPY,
    PLAIN,
    VOXEL,
    make_network,
    make_scan,
    tilted_affine,
    write_scan,
)
from scipy.ndimage import binary_erosion

from network_model.align import Alignment, rotation_to_z, tilt_degrees, views_of
from network_model.finetune import fine_tune
from network_model.inference import BASE_GB, network_to_tune, predict, predict_views
from network_model.pack import main as pack
from network_model.reconstruct import command, gigabytes
from network_model.reconstruction import _while_importing
from network_model.subject import GAMMA_MHZ_PER_T, load_subject, make_subject
from network_model.tuning import Tuning
from network_model.unet import load_network
from training_data.nifti import read_volume, write_volume

pytestmark = KERAS_ON_NUMPY
TILT = (0, np.sin(np.deg2rad(20)), np.cos(np.deg2rad(20)))


@pytest.fixture(scope="module")
def scan(tmp_path_factory):
    """Folder with an oblique, anisotropic scan of odd size and two networks."""
    folder = tmp_path_factory.mktemp("scan")
    write_scan(folder, tilted_affine(20), b0_dir=TILT)
    make_network(folder / "plain.h5", PLAIN)
    make_network(folder / "inversion.h5", INVERSION)
    return folder


def run(scan, output, *options, weights="inversion.h5"):
    """Step 6 on a scan's files, without refinement; returns the map and its sidecar."""
    files = [scan / "field.nii.gz", scan / "mask.nii.gz", "-o", output]
    where = scan if (scan / weights).exists() else scan.parent
    command([str(a) for a in (*files, "--weights", where / weights, "--no-refine", *options)])
    sidecar = json.loads((output.parent / "chi.json").read_text())
    return read_volume(output), sidecar


@pytest.fixture(scope="module")
def reference_run(scan, tmp_path_factory):
    """Map and sidecar of the scan as it is, in ppm."""
    return run(scan, tmp_path_factory.mktemp("reference") / "chi.nii.gz")


def test_map_is_on_the_grid_of_the_field_in_ppm(scan, reference_run):
    volume, field = reference_run[0], read_volume(scan / "field.nii.gz")
    assert volume.data.shape == field.data.shape == (29, 34, 25)
    np.testing.assert_array_equal(volume.affine, field.affine)
    assert volume.header.get_data_dtype() == np.float32
    assert volume.header.get_xyzt_units() == field.header.get_xyzt_units()
    plain = predict(
        *load_network(scan / "inversion.h5"),
        load_subject(scan / "field.nii.gz", scan / "mask.nii.gz"),
        mirrors=True,
    )
    np.testing.assert_allclose(volume.data, plain, atol=1e-7)


def test_sidecar_says_what_the_consensus_asks_for(scan, reference_run):
    sidecar = reference_run[1]
    digest = hashlib.sha256((scan / "inversion.h5").read_bytes()).hexdigest()
    assert sidecar["WeightsSHA256"] == digest
    assert sidecar["Units"] == "ppm"
    assert sidecar["ReferenceRegion"] == "none"
    assert sidecar["Tool"] == "QSMInvNet"
    assert sidecar["Version"]
    np.testing.assert_allclose(sidecar["B0_dir"], TILT, atol=1e-5)
    np.testing.assert_allclose(sidecar["VoxelSize"], VOXEL, atol=1e-5)
    assert sidecar["Steps"][0]["inputs"] == INVERSION["inputs"]
    inside = reference_run[0].data[read_volume(scan / "mask.nii.gz").data > 0]
    assert sidecar["BrainMean_ppm"] == pytest.approx(inside.mean(), abs=1e-6)
    assert sidecar["BrainSD_ppm"] == pytest.approx(inside.std(), rel=1e-4)


@pytest.mark.parametrize("codes", ["PSR", "RSA", "LPS"])
def test_stored_axes_give_the_same_map(scan, reference_run, tmp_path, codes):
    turn = ornt_transform(axcodes2ornt("RAS"), axcodes2ornt(codes))
    for name in ("field", "mask"):
        volume = read_volume(scan / f"{name}.nii.gz")
        affine = volume.affine @ inv_ornt_aff(turn, volume.data.shape)
        data = apply_orientation(volume.data, turn)
        write_volume(tmp_path / f"{name}.nii.gz", data, affine=affine)
    shutil.copy(scan / "inversion.h5", tmp_path)
    chi, _ = run(tmp_path, tmp_path / "chi.nii.gz")
    back = ornt_transform(axcodes2ornt(codes), axcodes2ornt("RAS"))
    np.testing.assert_allclose(apply_orientation(chi.data, back), reference_run[0].data, atol=1e-4)


@pytest.mark.parametrize("unit", ["Hz", "rad"])
def test_units_give_the_same_map(scan, reference_run, tmp_path, unit):
    factor = GAMMA_MHZ_PER_T * 7 * (2 * np.pi * 0.02 if unit == "rad" else 1)
    field = read_volume(scan / "field.nii.gz")
    write_volume(tmp_path / "field.nii.gz", -factor * field.data, like=field)
    shutil.copy(scan / "mask.nii.gz", tmp_path)
    shutil.copy(scan / "inversion.h5", tmp_path)
    options = ("--unit", unit, "--b0", 7, "--te", 0.02, "--sign", -1)
    chi, sidecar = run(tmp_path, tmp_path / "chi.nii.gz", *options)
    np.testing.assert_allclose(chi.data, reference_run[0].data, atol=1e-5)
    assert (sidecar["FieldUnits"], sidecar["MagneticFieldStrength"]) == (unit, 7)


def test_b0_direction_of_the_command_line_comes_first(scan, reference_run, tmp_path, capsys):
    chi, sidecar = run(scan, tmp_path / "chi.nii.gz", "--b0-dir", 0, -0.34, 0.94)
    np.testing.assert_allclose(sidecar["B0_dir"], (0, -0.34013, 0.94037), atol=1e-4)
    assert "from the user" in capsys.readouterr().out
    assert np.abs(chi.data - reference_run[0].data).max() > 1e-3


def test_reference_regions(scan, reference_run, tmp_path):
    plain, mask = reference_run[0].data, read_volume(scan / "mask.nii.gz").data > 0
    chi, sidecar = run(scan, tmp_path / "chi.nii.gz", "--reference", "brain")
    assert abs(chi.data[mask].mean()) < 1e-6
    region = np.zeros(mask.shape, bool)
    region[10:14, 12:20, 8:14] = True
    write_volume(tmp_path / "csf.nii.gz", region, affine=tilted_affine(20))
    chi, sidecar = run(
        scan,
        tmp_path / "chi.nii.gz",
        "--reference",
        tmp_path / "csf.nii.gz",
        weights="inversion.h5",
    )
    assert abs(chi.data[region & mask].mean()) < 1e-6
    assert sidecar["ReferenceValue_ppm"] == pytest.approx(plain[region & mask].mean(), abs=1e-6)
    assert sidecar["ReferenceVoxels"] == (region & mask).sum()
    assert np.all(chi.data[~mask] == 0)


def test_finetuning_lowers_the_misfit(scan, tmp_path):
    options = ("--finetune", 5, "--magnitude", scan / "magnitude.nii.gz", "--align", "off")
    _, sidecar = run(scan, tmp_path / "chi.nii.gz", *options, weights="plain.h5")
    assert sidecar["Misfit_ppm"] < sidecar["MisfitNetwork_ppm"]
    assert sidecar["Steps"][1]["iterations"] == 5
    assert sidecar["Magnitude"] == "magnitude.nii.gz"


def fake_module(monkeypatch, name, **functions):
    module = types.ModuleType(name)
    vars(module).update(functions)
    monkeypatch.setitem(sys.modules, name, module)


def test_refinement_is_the_default_and_its_numbers_are_kept(scan, reference_run, tmp_path):
    chi, sidecar = run(scan, tmp_path / "chi.nii.gz", "--refine")
    step = sidecar["Steps"][-1]
    assert (step["step"], step["guided_share"], step["nonlinear"]) == (
        "image refinement",
        0.012,
        False,
    )
    assert np.abs(chi.data - reference_run[0].data).max() > 1e-3


def test_what_decides_about_a_map_is_in_its_sidecar_and_log(scan, tmp_path, capsys):
    make_network(tmp_path / "tv.h5", {**PLAIN, "inputs": ["field", "mask", "tv"]})
    shutil.copy(scan / "field.nii.gz", tmp_path)
    shutil.copy(scan / "mask.nii.gz", tmp_path)
    write_volume(tmp_path / "mag.nii", echoes(read_volume(scan / "magnitude.nii.gz").data),
                 like=read_volume(scan / "field.nii.gz"))  # fmt: skip
    options = ("--no-mend", "--align", "off", "--magnitude", tmp_path / "mag.nii")
    _, sidecar = run(tmp_path, tmp_path / "chi.nii.gz", *options, weights="tv.h5")
    share = sidecar["Steps"][0]["structured_share"]
    assert 0 <= share <= 1
    assert f"errors of the field: {100 * share:.0f} % structured" in capsys.readouterr().out
    keys = ("Mend", "Align", "Seed", "MagnitudeEcho")
    assert [sidecar[k] for k in keys] == [False, "off", 0, 1]


def test_of_several_networks_the_first_is_tuned_and_the_others_correct_it(scan, tmp_path):
    keys = {"inputs": ["field", "first"], "firstFile": str(scan / "plain.h5"), "tile": 16}
    make_network(tmp_path / "all.h5", PLAIN | keys | {"norm": "none"})
    network, tuned = load_network(tmp_path / "all.h5"), network_to_tune(tmp_path / "all.h5")
    subject = load_subject(scan / "field.nii.gz", scan / "mask.nii.gz")
    given = (*network, views_of(subject, ["tikhonov"]), None)
    before = predict_views(*given)[0]
    chi = fine_tune(given, tuned, Tuning(), 0, False)
    np.testing.assert_allclose(chi, before, atol=1e-6)
    moved = fine_tune(given, tuned, Tuning(learning_rate=1e-2), 2, False)
    assert np.abs(moved - before).max() > 1e-3
    _, spec = tuned
    alone = predict(*tuned, subject)
    assert spec["inputs"] == ["field", "mask"]
    assert np.abs(moved - alone).max() > 1e-3


def test_report_gets_the_result(scan, tmp_path, monkeypatch):
    seen = {}

    def make_report(result, path):
        seen["result"] = result
        path.write_text("<html></html>")

    fake_module(monkeypatch, "network_model.report", make_report=make_report)
    report = tmp_path / "r/report.html"
    options = ("--report", report, "--labels", scan / "mask.nii.gz")
    chi, _ = run(scan, tmp_path / "chi.nii.gz", *options)
    assert report.read_text() == "<html></html>"
    assert [p.name for p in report.parent.iterdir()] == ["report.html"]
    result = seen["result"]
    np.testing.assert_array_equal(result.subject.to_file_axes(result.chi), chi.data)
    assert set(np.unique(result.labels)) == {0, 1}
    assert result.residual.shape == result.chi_network.shape == chi.data.shape


def test_warnings_are_logged_and_kept(scan, tmp_path, capsys):
    _, sidecar = run(scan, tmp_path / "chi.nii.gz", "--unit", "Hz", "--b0", 7)
    assert any("spread" in w for w in sidecar["Warnings"])
    assert "warning: the field's spread" in capsys.readouterr().out


def test_field_that_no_source_explains_is_left_out_and_named(scan, reference_run, tmp_path, capsys):
    field, mask = (read_volume(scan / f"{name}.nii.gz") for name in ("field", "mask"))
    ball = ((np.indices(field.data.shape).T - (9, 17, 12)) ** 2).sum(-1).T <= 3**2
    noise = np.random.default_rng(8).normal(0, 0.3, ball.shape) * ball * mask.data
    write_volume(tmp_path / "field.nii.gz", field.data + noise, like=field)
    shutil.copy(scan / "mask.nii.gz", tmp_path)
    shutil.copy(scan / "inversion.h5", tmp_path)
    left, sidecar = run(tmp_path, tmp_path / "chi.nii.gz")
    log = capsys.readouterr().out
    assert "no source explains the field in 1 patch(es)" in log
    middle = re.search(r"around voxel \((\d+), (\d+), (\d+)\)", log).groups()
    np.testing.assert_allclose([int(m) for m in middle], (9, 17, 12), atol=1)
    assert sidecar["UnsupportedVoxels"] > 0.3 * ball.sum()
    assert any("no source explains" in w for w in sidecar["Warnings"])
    kept, plain = run(tmp_path, tmp_path / "chi.nii.gz", "--no-mend")
    assert "no source explains" not in capsys.readouterr().out
    assert "UnsupportedVoxels" not in plain
    assert reference_run[1]["UnsupportedVoxels"] == 0
    errors = [np.linalg.norm(x.data - reference_run[0].data) for x in (left, kept)]
    assert errors[0] < 0.5 * errors[1]


def test_alignment_turns_and_comes_back():
    x = np.stack(np.meshgrid(*[np.linspace(-1, 1, n) for n in (30, 36, 20)], indexing="ij"), -1)
    mask = (x**2).sum(-1) < 0.8
    smooth = np.cos(3 * x).prod(-1) * mask
    subject = make_subject(smooth, mask, (1, 1, 1.6), (0.2, -0.3, 0.9))
    turn = Alignment(subject, 1.0)
    assert turn.subject.voxel_size == (1.0, 1.0, 1.0)
    np.testing.assert_array_equal(turn.subject.b0_dir, (0, 0, 1))
    back = turn.back(turn.subject.field)
    inner = binary_erosion(mask, iterations=3)
    np.testing.assert_allclose(back[inner], smooth[inner], atol=0.02)
    volume = mask.sum() * 1.6
    assert turn.subject.mask.sum() == pytest.approx(volume, rel=0.02)


def test_a_brain_that_touches_the_border_is_resampled_whole():
    scan = make_scan((20, 24, 16))
    cut = {name: x[:, :, 4:12] for name, x in scan.items()}
    wide = {name: np.pad(x, [(0, 0), (0, 0), (3, 5)]) for name, x in cut.items()}
    turned = [
        Alignment(make_subject(s["field"], s["mask"], (1, 1, 2.2)), 1.0, straighten=False).subject
        for s in (cut, wide)
    ]
    assert turned[0].mask.sum() == turned[1].mask.sum()
    np.testing.assert_allclose(turned[0].field[turned[0].mask], turned[1].field[turned[1].mask],
                               atol=1e-6)  # fmt: skip


def test_rounding_of_a_header_does_not_decide_about_cubes():
    scan = make_scan((20, 24, 16))
    for longest in (0.9 - 1e-7, 0.9, 0.9 + 1e-7):
        subject = make_subject(scan["field"], scan["mask"], (0.6, 0.6, longest))
        assert len(views_of(subject, ["tv"])) == 2


def test_elongated_voxels_are_seen_as_cubes_too(scan, reference_run, tmp_path, capsys):
    both, sidecar = run(scan, tmp_path / "chi.nii.gz", "--align", "both")
    network = sidecar["Steps"][0]
    assert (network["align_voxel_mm"], network["align_share"]) == (0.85, 0.5)
    assert "cubes of 0.85 mm" in capsys.readouterr().out
    inside = reference_run[0].data != 0
    assert 0.5 < np.corrcoef(both.data[inside], reference_run[0].data[inside])[0, 1] < 0.9999
    assert "align_voxel_mm" not in reference_run[1]["Steps"][0]


def test_cubes_that_exceed_the_memory_are_left_out(scan, reference_run, tmp_path, capsys):
    memory = f"{1024 * BASE_GB + 10:.0f}M"
    alone, sidecar = run(scan, tmp_path / "chi.nii.gz", "--align", "both", "--memory", memory)
    assert "cubes would exceed the memory" in capsys.readouterr().out
    assert "align_voxel_mm" not in sidecar["Steps"][0]
    np.testing.assert_allclose(alone.data, reference_run[0].data, atol=1e-6)


def test_rotation_brings_b0_to_z():
    for b0_dir in ((0, 0, 1), (0.3, -0.2, 0.9), (1, 0, 0), (0.1, 0.2, -0.9)):
        turn, b = rotation_to_z(b0_dir), np.array(b0_dir) / np.linalg.norm(b0_dir)
        np.testing.assert_allclose(turn @ turn.T, np.eye(3), atol=1e-12)
        np.testing.assert_allclose(np.abs(turn @ b), (0, 0, 1), atol=1e-12)
        assert np.linalg.det(turn) == pytest.approx(1)
    assert tilt_degrees(np.array(TILT)) == pytest.approx(20)


@pytest.mark.parametrize(
    ("inputs", "voxel_size", "b0_dir", "cubes"),
    [
        (["field", "mask"], (1, 1, 1), (0, 0, 1), [None]),
        (["field", "mask"], (1, 1, 1), TILT, [1.0]),
        (["field", "mask", "noise"], (1, 1, 2), (0, 0, 1), [1.0]),
        (["field", "mask"], (1.05, 1.05, 1.07), (0, 0, -1), [None]),
        (["field", "mask", "tv"], (0.7, 0.7, 0.7), TILT, [None]),
        (["field", "mask", "tv"], (1, 1, 1.4), TILT, [None]),
        (["field", "mask", "tv"], (1, 1, 2), TILT, [None, 1.0]),
        (["field", "mask", "tv"], (2.4, 0.8, 1), TILT, [None, 0.8]),
        (["field", "mask", "tv"], (0.5, 0.5, 2), TILT, [None, 0.7]),
        (["field", "mask", "tv"], (2, 2, 4), TILT, [None, 1.3]),
        (["field", "mask", "tv"], (1.3, 1.3, 1.3), TILT, [None]),
        (["field", "mask", "tv"], (1.35, 1.35, 1.35), TILT, [None, 1.15]),
        (["field", "mask", "tv"], (2, 2, 2.5), TILT, [None, 1.15]),
        (["field", "mask", "tv"], (1, 1, 3), TILT, [None, 1.0]),
    ],
)
def test_grids_that_a_network_sees_a_scan_on(inputs, voxel_size, b0_dir, cubes):
    mask = np.ones((6, 7, 8), bool)
    field = 0.01 * np.random.default_rng(0).standard_normal(mask.shape)
    subject = make_subject(field, mask, voxel_size, b0_dir)
    views = views_of(subject, inputs)
    assert [v.voxel_mm for v in views] == cubes
    assert sum(v.share for v in views) == pytest.approx(1)
    assert [v.voxel_mm for v in views_of(subject, inputs, 1.2, "on")] == [1.2]
    assert [v.voxel_mm for v in views_of(subject, inputs, 1.2, "off")] == [None]
    both = views_of(subject, inputs, 1.2, "both")
    if voxel_size == (0.7, 0.7, 0.7):  # cubes as fine as any that were trained
        assert [(v.voxel_mm, v.share) for v in both] == [(None, 1)]
        return
    own, other = both
    ratio = max(voxel_size) / min(voxel_size)
    assert own.voxel_mm is None
    if min(voxel_size) > 1.3 and ratio < 1.5:  # coarser than any that were trained
        assert (other.share, other.voxel_mm) == (0.7, 1.15)
    else:
        assert other.share == pytest.approx(min(0.5, 1 / ratio), abs=1e-3)
        wanted = min(voxel_size) * (1 if ratio >= 1.5 else 0.85)
        assert other.voxel_mm == pytest.approx(np.clip(wanted, 0.7, 1.3))
    for view in views:
        assert view.back(view.subject.field).shape == mask.shape
        if view.voxel_mm and len(views) > 1:  # the inversions know B0: only the voxels change
            np.testing.assert_array_equal(view.subject.b0_dir, subject.b0_dir)


def test_the_less_noise_the_more_of_elongated_voxels_is_seen_on_cubes():
    mask = np.ones((20, 24, 16), bool)
    noise = np.random.default_rng(0).standard_normal(mask.shape)
    for size, least in (((1, 1, 2), 0.5), ((1, 1, 3), 1 / 3), ((1, 4, 1), 1 / 4)):
        shares = []
        for sigma in (0.01, 0.004, 0.0022, 0.0011, 1e-5):
            subject = make_subject(sigma * noise, mask, size)
            own, cubes = views_of(subject, ["tv"])
            assert own.share + cubes.share == 1
            shares.append(cubes.share)
        assert shares[:2] == pytest.approx([least, least])
        assert least < shares[2] < shares[3] == pytest.approx(shares[2] + 0.2)
        assert shares[4] == 0.85
    finer = views_of(make_subject(1e-5 * noise, mask, (1, 1, 1.4)), ["tv"], choice="both")[1]
    assert finer.share == 0.5


def test_unknown_alignment_is_refused():
    with pytest.raises(ValueError, match="expected one of auto, on, off, both"):
        views_of(None, ["field"], 1.0, "sideways")


def test_memory_sizes():
    assert gigabytes("8G") == gigabytes("8") == gigabytes("8GB") == gigabytes("8192M") == 8


# -- what is refused ---------------------------------------------------------------------------


def rewrite(name, change=None, affine=None, header=None):
    """A case that writes a volume anew with other data, affine or header."""

    def case(folder):
        volume = read_volume(folder / name)
        data = volume.data if change is None else change(volume.data)
        image = nib.Nifti1Image(data, volume.affine if affine is None else affine(volume.affine))
        for key, value in (header or {}).items():
            image.header[key] = value
        nib.save(image, folder / name)

    return case


def patch_bytes(name, offset, value):
    """A case that overwrites bytes of an uncompressed NIfTI header."""

    def case(folder):
        raw = bytearray(gzip.decompress((folder / name).read_bytes()))
        raw[offset : offset + len(value)] = value
        (folder / name).write_bytes(gzip.compress(bytes(raw)))

    return case


def content(name, make):
    """A case that replaces a file's bytes."""
    return lambda folder: (folder / name).write_bytes(make((folder / name).read_bytes()))


def sidecar(text):
    return lambda folder: (folder / "field.json").write_text(text)


def spoil(index, value):
    def change(data):
        data = data.copy()
        data[index] = value
        return data

    return change


def bare_h5(folder):
    with h5py.File(folder / "odd.h5", "w") as file:
        file["x"] = 1


def test_the_network_for_white_errors_is_checked_too(scan, tmp_path, capsys):
    files = {name: str(tmp_path / f"{name}.h5") for name in ("first", "white", "second", "all")}
    make_network(tmp_path / "first.h5", INVERSION)
    make_network(tmp_path / "white.h5", INVERSION, seed=1)
    keys = {"inputs": ["field", "first"], "firstFile": files["first"], "norm": "none"}
    make_network(tmp_path / "second.h5", PLAIN | keys)
    shares = ["--first-share", "0.5", "--white", "white.h5"]
    pack([files["all"], files["first"], files["second"], *shares])
    volumes = [str(scan / "field.nii.gz"), str(scan / "mask.nii.gz")]
    arguments = [*volumes, "-o", str(tmp_path / "chi.nii.gz"), "--weights", files["all"]]
    command(arguments)
    step = json.loads((tmp_path / "chi.json").read_text())["Steps"][0]
    digest = hashlib.sha256((tmp_path / "white.h5").read_bytes()).hexdigest()
    assert step["white_sha256"] == digest
    with (tmp_path / "SHA256SUMS").open("a") as sums:
        sums.write(f"{'0' * 64}  white.h5\n")
    with pytest.raises(SystemExit, match="1"):
        command(arguments)
    assert "white.h5: damaged or changed, its SHA-256" in capsys.readouterr().err


def other_architecture(folder):
    with h5py.File(folder / "odd.h5", "w") as new, h5py.File(folder / "net.h5") as old:
        for key in old:
            old.copy(key, new)
        new.attrs["spec"] = json.dumps(json.loads(old.attrs["spec"]) | {"filters": 5})


def wrong_sum(folder):
    (folder / "SHA256SUMS").write_text("0" * 64 + "  net.h5\n")


def beside_a_link(folder):
    """A field that is a link, as of git-annex, with its sidecar beside the link."""
    (folder / "annex").mkdir()
    (folder / "field.nii.gz").rename(folder / "annex/key.nii.gz")
    (folder / "field.nii.gz").symlink_to(folder / "annex/key.nii.gz")
    (folder / "field.json").write_text("{}")


def echoes(data):
    return np.stack([data, data], -1)


NAN = np.float32("nan")
ODD = "--weights {}/odd.h5"
MAG = "--magnitude {}/magnitude.nii.gz"
BAD_FILES = {
    "field missing": (lambda d: (d / "field.nii.gz").unlink(), ""),
    "mask missing": (lambda d: (d / "mask.nii.gz").unlink(), ""),
    "magnitude missing": (lambda d: (d / "magnitude.nii.gz").unlink(), MAG),
    "field is text": (content("field.nii.gz", lambda b: b"hello"), ""),
    "field is compressed text": (content("field.nii.gz", lambda b: gzip.compress(b"x" * 999)), ""),
    "field is no byte long": (content("field.nii.gz", lambda b: b""), ""),
    "field truncated": (content("field.nii.gz", lambda b: b[: len(b) // 2]), ""),
    "mask truncated": (content("mask.nii.gz", lambda b: b[:100]), ""),
    "magnitude truncated": (content("magnitude.nii.gz", lambda b: b[:1000]), MAG),
    "data shorter than header": (
        content("field.nii.gz", lambda b: gzip.compress(gzip.decompress(b)[:5000])), ""),
    "field of noise bytes": (
        content("field.nii.gz", lambda b: np.random.default_rng(0).bytes(5000)), ""),
    "field 2-D": (rewrite("field.nii.gz", lambda x: x[:, :, 5]), ""),
    "field 4-D": (rewrite("field.nii.gz", echoes), ""),
    "field 5-D": (rewrite("field.nii.gz", lambda x: np.stack([echoes(x)] * 3, -1)), ""),
    "field one slice": (rewrite("field.nii.gz", lambda x: x[:, :, :1]), ""),
    "field complex": (rewrite("field.nii.gz", lambda x: x.astype(np.complex64)), ""),
    "field NaN": (rewrite("field.nii.gz", spoil((14, 17, 12), NAN)), ""),
    "field Inf": (rewrite("field.nii.gz", spoil((14, 17, 12), np.inf)), ""),
    "field beyond float32": (rewrite("field.nii.gz", lambda x: x * np.float64(1e300)), ""),
    "field zero": (rewrite("field.nii.gz", lambda x: 0 * x), ""),
    "field zero in the mask": (
        rewrite("field.nii.gz", lambda x: spoil((0, 0, 0), 1)(0 * x)), ""),
    "mask twice the field": (
        rewrite("field.nii.gz", lambda x: x * (np.indices(x.shape)[0] < 13)), "--mend"),
    "field of another shape": (rewrite("field.nii.gz", lambda x: x[1:]), ""),
    "field elsewhere": (
        rewrite("field.nii.gz", affine=lambda a: a + np.eye(4)[:, [0, 1, 3, 2]] * 9), ""),
    "mask elsewhere": (rewrite("mask.nii.gz", affine=lambda a: a @ np.diag([-1, 1, 1, 1])), ""),
    "mask of another shape": (rewrite("mask.nii.gz", lambda x: x[:, 2:]), ""),
    "mask 4-D": (rewrite("mask.nii.gz", echoes), ""),
    "mask empty": (rewrite("mask.nii.gz", lambda x: 0 * x), ""),
    "mask NaN": (rewrite("mask.nii.gz", spoil((0, 0, 0), NAN)), ""),
    "mask of one voxel": (rewrite("mask.nii.gz", lambda x: spoil((14, 17, 12), 1)(0 * x)), ""),
    "mask of one slice": (
        rewrite("mask.nii.gz", lambda x: spoil((slice(None), slice(None), 12), 1)(0 * x)), ""),
    "affine singular": (patch_bytes("field.nii.gz", 312, bytes(16)), ""),
    "voxel size of micrometres": (
        rewrite("field.nii.gz", affine=lambda a: np.diag([1e-3, 1e-3, 1e-3, 1])), ""),
    "voxel size in metres": (
        rewrite("field.nii.gz", affine=lambda a: np.diag([1e3, 1e3, 1e3, 1])), ""),
    "header of negative dimensions": (patch_bytes("field.nii.gz", 42, b"\xf0\xff"), ""),
    "header of zero dimensions": (patch_bytes("field.nii.gz", 42, b"\0\0"), ""),
    "header of huge dimensions": (patch_bytes("field.nii.gz", 42, b"\xff\x7f\xff\x7f"), ""),
    "header of 99 dimensions": (patch_bytes("field.nii.gz", 40, b"\x63\x00"), ""),
    "header of unknown type": (patch_bytes("field.nii.gz", 70, b"\x09\x03"), ""),
    "header of color type": (patch_bytes("field.nii.gz", 70, b"\x80\x00\x18\x00"), ""),
    "header of NaN offset": (patch_bytes("field.nii.gz", 108, b"\0\0\xc0\x7f"), ""),
    "header of far offset": (patch_bytes("field.nii.gz", 108, b"\0\0\x80\x4f"), ""),
    "header of NaN sform": (patch_bytes("field.nii.gz", 280, b"\0\0\xc0\x7f"), ""),
    "header of no magic": (patch_bytes("field.nii.gz", 344, b"abcd"), ""),
    "magnitude of another shape": (rewrite("magnitude.nii.gz", lambda x: x[2:]), MAG),
    "magnitude negative": (rewrite("magnitude.nii.gz", lambda x: -x), MAG),
    "magnitude zero": (rewrite("magnitude.nii.gz", lambda x: 0 * x), MAG),
    "magnitude NaN": (rewrite("magnitude.nii.gz", spoil((14, 17, 12), NAN)), MAG),
    "magnitude 5-D": (rewrite("magnitude.nii.gz", lambda x: echoes(echoes(x))), MAG),
    "echo beyond": (rewrite("magnitude.nii.gz", echoes), f"{MAG} --echo 2"),
    "echo negative": (rewrite("magnitude.nii.gz", echoes), f"{MAG} --echo -1"),
    "echo of a 3-D magnitude": (None, f"{MAG} --echo 1"),
    "echo of no magnitude": (None, "--echo 1"),
    "field of fill values": (rewrite("field.nii.gz", spoil((14, 17, 12), 1e30)), ""),
    "sidecar beside a link": (beside_a_link, "-o {}/field.nii"),
    "sidecar not JSON": (sidecar("{B0_dir:"), ""),
    "sidecar binary": (lambda d: (d / "field.json").write_bytes(b"\xff\xfe\x00\x81"), ""),
    "sidecar a list": (sidecar("[0, 0, 1]"), ""),
    "sidecar direction zero": (sidecar('{"B0_dir": [0, 0, 0]}'), ""),
    "sidecar direction of two": (sidecar('{"B0_dir": [0, 1]}'), ""),
    "sidecar direction of words": (sidecar('{"B0_dir": ["x", "y", "z"]}'), ""),
    "sidecar direction NaN": (sidecar('{"B0_dir": [NaN, 0, 1]}'), ""),
    "sidecar direction null": (sidecar('{"B0_dir": null}'), ""),
    "sidecar field strength": (sidecar('{"MagneticFieldStrength": 30000}'), "--unit Hz"),
    "sidecar echo times": (
        sidecar('{"MagneticFieldStrength": 3, "EchoTime": [0.01, 0.02]}'), "--unit rad"),
    "weights missing": (None, "--weights {}/none.h5"),
    "weights a folder": (None, "--weights {}"),
    "weights not HDF5": (lambda d: shutil.copy(d / "field.nii.gz", d / "odd.h5"), ODD),
    "weights without network": (bare_h5, ODD),
    "weights of another architecture": (other_architecture, ODD),
    "weights truncated": (content("net.h5", lambda b: b[:2000]), ""),
    "weights not those listed": (wrong_sum, ""),
    "reference missing": (None, "--reference {}/csf.nii.gz"),
    "reference of another shape": (
        rewrite("magnitude.nii.gz", lambda x: x[2:]), "--reference {}/magnitude.nii.gz"),
    "reference outside the brain": (
        rewrite("magnitude.nii.gz", lambda x: spoil((0, 0, 0), 1)(0 * x)),
        "--reference {}/magnitude.nii.gz"),
    "labels of another shape": (
        rewrite("magnitude.nii.gz", lambda x: x[2:]),
        "--labels {}/magnitude.nii.gz --report r.html"),
    "config missing": (None, "--config {}/none.py"),
    "config of an unknown key": (
        lambda d: (d / "c.py").write_text("config = {'memry': 1}"), "--config {}/c.py"),
    "config of an unknown refine option": (
        lambda d: (d / "c.py").write_text("config = {'refine_options': {'magic': 1}}"),
        "--config {}/c.py --refine",
    ),
    "config of no voxel size": (
        lambda d: (d / "c.py").write_text("config = {'align_voxel_mm': 0.0}"), "--config {}/c.py"),
    "config of a negative number": (
        lambda d: (d / "c.py").write_text("config = {'refine_options': {'iterations': -5}}"),
        "--config {}/c.py --refine"),
    "config of a negative seed": (
        lambda d: (d / "c.py").write_text("config = {'seed': -1}"), "--config {}/c.py"),
    "config that fails": (
        lambda d: (d / "c.py").write_text("raise RuntimeError('no')"), "--config {}/c.py"),
    "config that exits": (
        lambda d: (d / "c.py").write_text("raise SystemExit(3)"), "--config {}/c.py"),
    "config of a wrong type": (
        lambda d: (d / "c.py").write_text("config = {'finetune': 'x'}"), "--config {}/c.py"),
}  # fmt: skip
BAD_OPTIONS = [
    "--unit T", "--unit Hz", "--unit rad --b0 3", "--unit Hz --b0 0", "--unit Hz --b0 -3",
    "--unit Hz --b0 nan", "--unit Hz --b0 30000", "--unit rad --b0 3 --te 20", "--b0 three",
    "--sign 2", "--sign minus", "--b0-dir 0 0 0", "--b0-dir 0 1", "--b0-dir 0 0 nan",
    "--memory lots", "--memory 0", "--memory 100M", "--align sideways", "--finetune -1",
    "--finetune many", "--report {}/report.txt", "--report {}/new", "-o {}/out.txt",
    "-o {}/field.nii.gz", "-o {}/mask.nii.gz", "-o {}", "-o {}/field.nii.gz/out.nii.gz",
    "-o {}/.nii.gz", "-o {}/field.nii", "--magic", "--bids {}",
    "--finetune 1 --memory 900M", "-o {0}/magnitude.nii.gz --reference {0}/magnitude.nii.gz",
]  # fmt: skip


@pytest.fixture
def folder(scan, tmp_path):
    """Copies of the scan's files and of a network, to spoil."""
    for name in ("field.nii.gz", "mask.nii.gz", "magnitude.nii.gz"):
        shutil.copy(scan / name, tmp_path)
    shutil.copy(scan / "inversion.h5", tmp_path / "net.h5")
    return tmp_path


def tree(folder):
    """Every file below a folder with its time of change, and every folder."""
    return sorted((p, p.is_file() and p.stat().st_mtime_ns) for p in folder.rglob("*"))


def refused(folder, options, capsys):
    """Run step 6; it must end in one line and exit status 1 and leave the folder as it is."""
    before = tree(folder)
    files = [folder / "field.nii.gz", folder / "mask.nii.gz"]
    fixed = ["-o", folder / "new/chi.nii.gz", "--weights", folder / "net.h5", "--no-refine"]
    argv = [*files, *fixed, *options.format(folder).split()]
    with pytest.raises(SystemExit) as end:
        command([str(a) for a in argv])
    lines = capsys.readouterr().err.strip().splitlines()
    assert end.value.code == 1
    assert len(lines) == 1, lines
    assert lines[0].startswith("error: [6 reconstruct] ")
    assert 30 < len(lines[0]) < 400
    assert tree(folder) == before
    return lines[0]


@pytest.mark.parametrize("case", BAD_FILES)
def test_bad_files_are_refused_in_one_line(folder, capsys, case):
    spoil_it, options = BAD_FILES[case]
    if spoil_it:
        spoil_it(folder)
    refused(folder, options, capsys)


@pytest.mark.parametrize("options", BAD_OPTIONS)
def test_bad_options_are_refused_in_one_line(folder, capsys, options):
    refused(folder, options, capsys)


def test_missing_arguments_are_named(capsys):
    with pytest.raises(SystemExit):
        command(["field.nii.gz", "mask.nii.gz"])
    assert "output is missing" in capsys.readouterr().err


def test_a_report_that_fails_does_not_cost_the_map(folder, monkeypatch, capsys):
    def make_report(result, path):
        path.write_text("half")
        raise RuntimeError("the report could not be drawn")

    fake_module(monkeypatch, "network_model.report", make_report=make_report)
    with pytest.raises(SystemExit, match="1"):
        run(
            folder,
            folder / "new/chi.nii.gz",
            "--report",
            folder / "r/report.html",
            weights="net.h5",
        )
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "RuntimeError: the report could not be drawn; the map is in" in error.replace(")", "")
    assert sorted(p.name for p in (folder / "new").iterdir()) == ["chi.json", "chi.nii.gz"]
    assert not (folder / "r").exists()


def test_a_disk_that_is_full_leaves_nothing(folder, monkeypatch, capsys):
    def save(image, path):
        path.write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr("training_data.nifti.nib.save", save)
    refused(folder, "", capsys)


def test_bad_options_are_refused_before_anything_is_read(folder, monkeypatch, capsys):
    monkeypatch.setattr("network_model.reconstruction.load_subject", lambda *_: pytest.fail("read"))
    refused(folder, "--align sideways", capsys)
    for text in ("'trainable': 'some'", "'learning_rate': 0.0", "'refine_options': {'pull': 'x'}"):
        (folder / "c.py").write_text(f"config = {{{text}}}")
        refused(folder, "--config {}/c.py", capsys)
    (folder / "odd.h5").write_bytes(b"text")
    refused(folder, "--weights {}/odd.h5", capsys)
    monkeypatch.setattr("os.access", lambda *_: False)
    assert "may not be written to" in refused(folder, "", capsys)


def test_a_module_is_imported_beside_other_work(tmp_path, monkeypatch):
    (tmp_path / "slow_to_import.py").write_text("import time; time.sleep(0.3); done = True")
    monkeypatch.syspath_prepend(tmp_path)
    with _while_importing("slow_to_import"):
        assert not hasattr(sys.modules.get("slow_to_import"), "done")
    assert sys.modules["slow_to_import"].done
    with pytest.raises(ModuleNotFoundError), _while_importing("no_module_of_this_name"):
        pass
    with pytest.raises(KeyError), _while_importing("no_module_of_this_name"):
        raise KeyError("of the work itself, which comes first")


def test_a_report_needs_nilearn(folder, monkeypatch, capsys):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "needs nilearn" in refused(folder, "--report {}/r.html", capsys)


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ("f.nii m.nii -o c.nii --workers 2", "workers is for --bids"),
        ("f.nii m.nii -o c.nii --out there", "out is for --bids"),
        ("--bids study", "out is missing"),
        ("f.nii --bids study --out there", "field has no meaning with --bids; fieldPatterns"),
        ("--bids study --out there --labels l.nii", "labelsPatterns of --config"),
        ("field.nii mask.nii -o chi.nii --labels l.nii", "add --report FILE"),
        ("--bids study --out there -o c.nii", "output has no meaning"),
    ],
)
def test_arguments_of_the_other_form_are_refused(argv, words, capsys):
    with pytest.raises(SystemExit, match="1"):
        command(argv.split())
    assert words in capsys.readouterr().err
