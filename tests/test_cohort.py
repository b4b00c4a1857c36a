"""Step 6 on a BIDS study: what is found, made, skipped, named; the public validator's verdict."""

import csv
import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scans import KERAS_ON_NUMPY, PLAIN, VOXEL, make_network, make_scan

from configs import load_config
from network_model.bids import entities, find_scans
from network_model.cohort import _finished, run_cohort, scan_options
from network_model.reconstruct import PATTERNS, command
from network_model.reconstruction import Options
from network_model.subject import Scan
from training_data.nifti import read_volume, write_volume

pytestmark = KERAS_ON_NUMPY
SHAPE = (20, 24, 18)
SCANS = ("sub-01_ses-1", "sub-01_ses-2", "sub-02_ses-1", "sub-03_ses-1")
CONFIG = load_config("step6_reconstruct", [])
FIND = {kind: CONFIG[f"{kind}Patterns"] for kind in PATTERNS}


def folder_of(name, root):
    return Path(root).joinpath(*name.split("_")[:2], "anat")


def make_study(study):
    """Raw magnitudes of two echoes and QSMxT's fields and masks; the field of sub-02 is broken."""
    for k, name in enumerate(SCANS):
        scan = make_scan(SHAPE, seed=k)
        maps, raw = folder_of(name, study / "derivatives/qsmxt"), folder_of(name, study)
        affine = np.diag([*VOXEL, 1])
        write_volume(maps / f"{name}_localfield.nii", scan["field"], affine=affine)
        write_volume(maps / f"{name}_mask.nii", scan["mask"], affine=affine)
        for echo in (1, 2):
            path = raw / f"{name}_echo-{echo}_part-mag_MEGRE.nii.gz"
            write_volume(path, scan["magnitude"] / echo, affine=affine)
    broken = folder_of("sub-02_ses-1", study / "derivatives/qsmxt") / "sub-02_ses-1_localfield.nii"
    broken.write_bytes(broken.read_bytes()[:5000])


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A study with one broken scan, and a network beside it."""
    root = tmp_path_factory.mktemp("cohort")
    make_study(root / "study")
    make_network(root / "net.h5", PLAIN)
    return root / "study"


def template(study, **changed):
    return Options(None, None, None, str(study.parent / "net.h5"), refine=False, **changed)


@pytest.fixture(scope="module")
def made(study):
    """The maps' folder after a first run, and what it said."""
    out = study / "derivatives/qsminvnet"
    with pytest.raises(ValueError, match=r"1 of 4 scans failed: sub-02_ses-1;") as problem:
        run_cohort(study, out, template(study), FIND)
    return out, str(problem.value)


def summary(out):
    with open(out / "summary.csv") as file:
        return {row["scan"]: row for row in csv.DictReader(file)}


def test_all_but_the_broken_scan_are_made(study, made):
    rows = summary(made[0])
    assert [rows[name]["state"] for name in SCANS] == ["done", "done", "failed", "done"]
    assert "truncated" in rows["sub-02_ses-1"]["message"]
    assert float(rows["sub-03_ses-1"]["misfit_ppm"]) > 0
    for name in ("sub-01_ses-2", "sub-03_ses-1"):
        chi = read_volume(folder_of(name, made[0]) / f"{name}_Chimap.nii.gz")
        field = read_volume(folder_of(name, study / "derivatives/qsmxt") / f"{name}_localfield.nii")
        np.testing.assert_array_equal(chi.affine, field.affine)
        assert chi.data.shape == SHAPE
        assert np.abs(chi.data).max() > 0
    names = {p.name for p in made[0].rglob("*") if p.is_file()}
    assert not [n for n in names if "sub-02" in n or n.endswith(".tmp")]


def test_sidecar_names_its_sources(made):
    folder = folder_of("sub-01_ses-2", made[0])
    sidecar = json.loads((folder / "sub-01_ses-2_Chimap.json").read_text())
    assert sidecar["Sources"] == [
        "bids:study:derivatives/qsmxt/sub-01/ses-2/anat/sub-01_ses-2_localfield.nii",
        "bids:study:derivatives/qsmxt/sub-01/ses-2/anat/sub-01_ses-2_mask.nii",
        "bids:study:sub-01/ses-2/anat/sub-01_ses-2_echo-2_part-mag_MEGRE.nii.gz",
    ]
    assert sidecar["SkullStripped"] is True
    assert sidecar["Units"] == "ppm"
    description = json.loads((made[0] / "dataset_description.json").read_text())
    assert description["DatasetType"] == "derivative"
    assert description["DatasetLinks"] == {"study": "../.."}
    assert description["GeneratedBy"][0]["Name"] == "QSMInvNet"


def assert_valid(folder):
    """The public validator finds no error."""
    validator = Path(sys.executable).with_name("bids-validator-deno")
    if not validator.exists() and not shutil.which("bids-validator-deno"):
        pytest.skip("the PyPI package bids-validator-deno is not installed")
    run = subprocess.run(
        [validator if validator.exists() else validator.name, "--format", "json", folder],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    found = json.loads(run.stdout)["issues"]["issues"]
    assert not [issue for issue in found if issue["severity"] == "error"]
    assert run.returncode == 0


def test_passes_the_public_validator(made):
    assert_valid(made[0])


def test_finished_scans_are_skipped_until_something_changes(study, made, monkeypatch):
    calls = []

    def fake(options, extra):
        calls.append(Path(options.output).name.removesuffix("_Chimap.nii.gz"))
        raise ValueError("not made")

    monkeypatch.setattr("network_model.cohort.run_scan", fake)

    def names_run(**changed):
        calls.clear()
        with pytest.raises(ValueError, match="sub-02_ses-1"):
            run_cohort(study, made[0], template(study, **changed), FIND)
        return set(calls)

    assert names_run() == {"sub-02_ses-1"}
    assert summary(made[0])["sub-01_ses-1"]["state"] == "skipped"
    assert float(summary(made[0])["sub-01_ses-1"]["misfit_ppm"]) > 0
    assert names_run(memory_gb=6.0) == {"sub-02_ses-1"}
    assert names_run(reference="brain") == set(SCANS)
    assert names_run(finetune=3) == set(SCANS)
    mask = folder_of("sub-03_ses-1", study / "derivatives/qsmxt") / "sub-03_ses-1_mask.nii"
    chi = folder_of("sub-03_ses-1", made[0]) / "sub-03_ses-1_Chimap.nii.gz"
    times = mask.stat()
    os.utime(mask, (chi.stat().st_mtime + 5,) * 2)
    assert names_run() == {"sub-02_ses-1", "sub-03_ses-1"}
    os.utime(mask, (times.st_atime, times.st_mtime))
    direction = mask.with_name("sub-03_ses-1_localfield.json")
    direction.write_text('{"B0_dir": [0, 0.1, 1]}')
    os.utime(direction, (chi.stat().st_mtime + 5,) * 2)
    assert names_run() == {"sub-02_ses-1", "sub-03_ses-1"}
    direction.unlink()
    sidecar = chi.with_name("sub-03_ses-1_Chimap.json")
    text = sidecar.read_text()
    sidecar.write_text("{")
    assert names_run() == {"sub-02_ses-1", "sub-03_ses-1"}
    sidecar.write_text(text)


def test_a_report_of_an_earlier_map_and_a_map_for_want_of_memory_are_made_anew(
    study, made, tmp_path
):
    kept = folder_of("sub-01_ses-1", made[0]) / "sub-01_ses-1_Chimap.nii.gz"
    for path in (kept, kept.with_name("sub-01_ses-1_Chimap.json")):
        shutil.copy2(path, tmp_path / path.name)
    output, report = tmp_path / kept.name, tmp_path / "report.html"
    sidecar = json.loads((tmp_path / "sub-01_ses-1_Chimap.json").read_text())
    extra = {"ParametersSHA256": sidecar["ParametersSHA256"]}
    field = folder_of("sub-01_ses-1", study / "derivatives/qsmxt") / "sub-01_ses-1_localfield.nii"
    files = {"field_file": str(field), "mask_file": str(field), "output": str(output)}
    options = Options(**files, weights_file="net.h5")
    made_at = output.stat().st_mtime
    assert _finished(options, extra).items() >= sidecar.items()
    wanted = dataclasses.replace(options, report=str(report))
    assert _finished(wanted, extra) == {}
    report.write_text("a report")
    assert _finished(wanted, extra)
    os.utime(report, (made_at - 1,) * 2)
    assert _finished(wanted, extra) == {}

    sidecar["Steps"][0]["no_cubes_in_gb"] = 1.5
    (tmp_path / "sub-01_ses-1_Chimap.json").write_text(json.dumps(sidecar))
    for memory, done in ((1.0, True), (1.5, True), (2.0, False), (None, False)):
        assert bool(_finished(dataclasses.replace(options, memory_gb=memory), extra)) == done


def test_two_workers_give_the_same_maps(study, made, tmp_path):
    pytest.importorskip("distributed")
    with pytest.raises(ValueError, match=r"1 of 4 scans failed: sub-02_ses-1;"):
        run_cohort(study, tmp_path / "out", template(study), FIND, workers=2)
    for name in ("sub-01_ses-1", "sub-01_ses-2", "sub-03_ses-1"):
        one, two = (
            read_volume(folder_of(name, root) / f"{name}_Chimap.nii.gz").data
            for root in (made[0], tmp_path / "out")
        )
        np.testing.assert_allclose(one, two, atol=1e-5)


def test_command_line(study, tmp_path, capsys):
    keys = tmp_path / "keys.py"
    keys.write_text('config = {"fieldPatterns": ["*sub-03*_localfield.nii*"]}\n')
    arguments = ["--bids", study, "--out", tmp_path / "out", "--no-refine", "--config", keys]
    arguments += ["--weights", study.parent / "net.h5", "--report", "yes.html"]
    command([str(a) for a in arguments])
    assert "1 done, 0 skipped, 0 failed" in capsys.readouterr().out
    assert (tmp_path / "out/reports/sub-03_ses-1.html").stat().st_size > 10_000
    assert_valid(tmp_path / "out")
    broken = [*arguments[:4], "--no-refine", "--weights", study.parent / "net.h5"]
    with pytest.raises(SystemExit) as stopped:
        command([str(a) for a in broken])
    said = capsys.readouterr()
    assert stopped.value.code == 1
    assert said.err.splitlines()[-1].startswith(
        "error: [6 reconstruct] 1 of 4 scans failed: sub-02"
    )


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def test_entities_of_folder_and_name():
    path = Path("derivatives/SEPIA/sub-9/ses-x/Sepia_localfield.nii.gz")
    assert entities(path) == {"sub": "9", "ses": "x"}
    assert entities(Path("sub-1_acq-a_run-02_mask.nii")) == {"sub": "1", "acq": "a", "run": "02"}


def test_files_are_matched_by_entities_then_nearness_then_pattern(tmp_path):
    touch(
        tmp_path,
        "sub-1/anat/sub-1_run-1_echo-10_part-mag_MEGRE.nii.gz",
        "sub-1/anat/sub-1_run-1_echo-2_part-mag_MEGRE.nii.gz",
        "sub-1/anat/sub-1_run-2_echo-1_part-mag_MEGRE.nii.gz",
        "sub-1/anat/sub-1_run-1_echo-1_part-phase_MEGRE.nii.gz",
        "derivatives/q/sub-1/anat/sub-1_run-1_localfield.nii",
        "derivatives/q/sub-1/anat/sub-1_run-2_localfield.nii",
        "derivatives/q/sub-1/anat/sub-1_run-1_bgmask.nii",
        "derivatives/q/sub-1/anat/sub-1_run-1_mask.nii",
        "derivatives/q/sub-1/anat/sub-1_mask.nii",
        "derivatives/fmriprep/sub-1/anat/sub-1_run-2_space-MNI_desc-brain_mask.nii.gz",
        "derivatives/sepia/sub-2/GRE/Sepia_localfield.nii.gz",
        "derivatives/sepia/sub-2/GRE/Sepia_mask_localfield.nii.gz",
        "derivatives/.hidden/sub-4_localfield.nii",
        "derivatives/q/sub-3/anat/sub-3_localfield.nii",
        "derivatives/out/sub-5/anat/sub-5_localfield.nii",
        "nobody_localfield.nii",
    )
    scans = {s.name: s for s in find_scans(tmp_path, tmp_path / "derivatives/out", FIND)}
    assert set(scans) == {"sub-1_run-1", "sub-1_run-2", "sub-2", "sub-3"}
    assert scans["sub-1_run-1"].mask.name == "sub-1_run-1_bgmask.nii"
    echoes = [m.name.split("_")[2] for m in scans["sub-1_run-1"].magnitudes]
    assert echoes == ["echo-2", "echo-10"]
    assert scans["sub-1_run-2"].mask.name == "sub-1_mask.nii"
    assert scans["sub-2"].mask.name == "Sepia_mask_localfield.nii.gz"
    assert scans["sub-3"].mask is None
    out = scans["sub-1_run-2"].output(tmp_path)
    assert out == tmp_path / "sub-1/anat/sub-1_run-2_Chimap.nii.gz"
    with pytest.raises(ValueError, match="no mask matches"):
        scan_options(scans["sub-3"], tmp_path, template(tmp_path))


def test_folders_that_are_links_are_looked_into_once(tmp_path):
    touch(tmp_path, "store/sub-2/sub-2_localfield.nii", "study/sub-1/sub-1_localfield.nii")
    study = tmp_path / "study"
    (study / "sub-2").symlink_to(tmp_path / "store/sub-2")
    (study / "sub-1/self").symlink_to(study)
    assert [s.name for s in find_scans(study, study / "out", FIND)] == ["sub-1", "sub-2"]


def test_two_fields_for_one_map_are_refused(tmp_path):
    touch(tmp_path, "a/sub-1_localfield.nii", "b/sub-1_localfield.nii", "a/sub-1_mask.nii")
    (scan,) = find_scans(tmp_path, tmp_path / "out", FIND)
    with pytest.raises(ValueError, match=r"several local fields .* narrow fieldPatterns"):
        scan_options(scan, tmp_path, template(tmp_path))


def test_several_masks_that_suit_a_field_are_refused_and_other_regions_are_none(tmp_path):
    touch(tmp_path, "sub-1_localfield.nii", "sub-1_label-CSF_mask.nii", "sub-1_label-GM_mask.nii")
    touch(tmp_path, "d/sub-1_desc-brain_mask.nii", "sub-1_acq-a_mag.nii", "sub-1_acq-b_mag.nii")
    touch(tmp_path, "sub-1_desc-csf_mask.nii", "sub-1_lesion_mask.nii", "sub-1_csf_mask.nii")
    (scan,) = find_scans(tmp_path, tmp_path / "out", FIND)
    assert scan.mask.name == "sub-1_desc-brain_mask.nii"
    with pytest.raises(ValueError, match=r"several files may be the magnitude .*magnitudePatterns"):
        scan_options(scan, tmp_path, template(tmp_path))
    touch(tmp_path, "e/sub-1_desc-brain_mask.nii")
    (tmp_path / "sub-1_acq-b_mag.nii").unlink()
    (scan,) = find_scans(tmp_path, tmp_path / "out", FIND)
    with pytest.raises(ValueError, match=r"several files may be the mask .*narrow maskPatterns"):
        scan_options(scan, tmp_path, template(tmp_path))


def test_a_file_that_was_not_fetched_stops_its_own_scan_alone(study, made, tmp_path, monkeypatch):
    monkeypatch.setattr("network_model.cohort._run_all", lambda *_: None)
    shutil.copytree(study, tmp_path / "study")
    maps = tmp_path / "study/derivatives/qsmxt"
    mask = folder_of("sub-03_ses-1", maps) / "sub-03_ses-1_mask.nii"
    mask.unlink()
    mask.symlink_to("annex/objects/none.nii")
    broken = folder_of("sub-02_ses-1", maps) / "sub-02_ses-1_localfield.nii"
    broken.unlink()
    out = tmp_path / "study/derivatives/qsminvnet"
    shutil.copy(study.parent / "net.h5", tmp_path)
    with pytest.raises(ValueError, match="1 of 3 scans failed: sub-03_ses-1"):
        run_cohort(tmp_path / "study", out, template(tmp_path / "study"), FIND)
    assert "sub-03_ses-1_mask.nii" in summary(out)["sub-03_ses-1"]["message"]


def test_echo_reference_and_field_strength(tmp_path):
    touch(tmp_path, "sub-1_localfield.nii", "sub-1_mask.nii", "sub-1_desc-csf_mask.nii")
    for echo in (1, 2, 3):
        touch(tmp_path, f"sub-1_echo-{echo}_part-mag_MEGRE.nii")
        sidecar = {"MagneticFieldStrength": 7, "EchoTime": 0.01 * echo}
        (tmp_path / f"sub-1_echo-{echo}_part-mag_MEGRE.json").write_text(json.dumps(sidecar))
    patterns = FIND | {"mask": ["*-1_mask.nii"], "reference": ["*_desc-csf_mask.nii"]}
    (scan,) = find_scans(tmp_path, tmp_path / "out", patterns)
    wanted = template(tmp_path, reference="*_desc-csf_mask.nii", scan=Scan("rad", echo=2))
    options = scan_options(scan, tmp_path, wanted)
    assert options.reference.endswith("sub-1_desc-csf_mask.nii")
    assert "echo-3" in options.magnitude_file
    assert (options.scan.b0, options.scan.te, options.scan.echo) == (7, 0.03, None)
    with pytest.raises(ValueError, match="echoes 0 to 2"):
        scan_options(scan, tmp_path, dataclasses.replace(wanted, scan=Scan(echo=3)))


def test_a_study_without_fields_and_other_bad_requests(study, tmp_path):
    touch(tmp_path, "sub-1/anat/sub-1_T1w.nii.gz")
    with pytest.raises(ValueError, match="no local field among 1 NIfTI"):
        run_cohort(tmp_path, tmp_path / "out", template(study), FIND)
    with pytest.raises(ValueError, match="no such folder"):
        run_cohort(tmp_path / "nothing", tmp_path / "out", template(study), FIND)
    with pytest.raises(ValueError, match="is the study itself"):
        run_cohort(study, study, template(study), FIND)
    with pytest.raises(ValueError, match="workers 0"):
        run_cohort(study, tmp_path / "out", template(study), FIND, workers=0)
    assert not (tmp_path / "out/sub-01").exists()


@pytest.mark.parametrize("name", ["dataset_description.json", "README"])
def test_another_data_set_is_not_written_over(study, tmp_path, name):
    out = tmp_path / "out"
    out.mkdir()
    (out / name).write_text('{"Name": "the study", "BIDSVersion": "1.10.0"}')
    before = (out / name).read_text()
    with pytest.raises(ValueError, match=rf"{name}: is .*choose a folder of its own with --out"):
        run_cohort(study, out, template(study), FIND)
    assert [p.name for p in out.iterdir()] == [name]
    assert (out / name).read_text() == before
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="file: is a file; expected a folder"):
        run_cohort(study, tmp_path / "file", template(study), FIND)
    with pytest.raises(ValueError, match="workers 0: expected at least 1"):
        run_cohort(study, tmp_path / "new", template(study), FIND, workers=0)
    assert not (tmp_path / "new").exists()


def test_without_dask_one_line_says_so(study, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ValueError, match=r"need Dask: pip install 'dask\[distributed\]'"):
        run_cohort(study, tmp_path / "out", template(study), FIND, workers=2)
