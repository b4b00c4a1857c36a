"""Step 7: both uses, what they write, and one clear line for bad input."""

import csv
import json
import subprocess
import sys

import numpy as np
import pytest

from configs import PROJECT_ROOT, load_config
from network_model import evaluate
from network_model.metrics import csv_text, score, table
from training_data.dipole import forward_field
from training_data.nifti import write_volume

AFFINE = np.diag([1.2, 1.0, 1.5, 1.0])
VOXEL = (1.2, 1.0, 1.5)
SHAPE = (30, 33, 28)


@pytest.fixture
def folder(tmp_path):
    """A small scan, its reference and the two maps of step 5."""
    x, y, z = np.meshgrid(*[np.linspace(-1, 1, n) for n in SHAPE], indexing="ij")
    mask = x**2 + y**2 + z**2 < 0.8
    truth = 0.1 * (x**2 + (y - 0.2) ** 2 + z**2 < 0.1).astype(np.float32)
    labels = np.where(truth > 0, 3, 8) * mask
    field = forward_field(truth, VOXEL) * mask
    noise = np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32) * mask
    files = {
        "truth": truth,
        "mask": mask,
        "labels": labels.astype(np.uint8),
        "field": field + 0.001 * noise,
        "5_finetune/chi_round00": truth + 0.02 * noise,
        "5_finetune/chi": truth + 0.01 * noise,
    }
    for name, data in files.items():
        write_volume(tmp_path / f"{name}.nii.gz", data, affine=AFFINE)
    scan = {"unit": "ppm", "magnitudeFile": None}
    scan |= {f"{name}File": str(tmp_path / f"{name}.nii.gz") for name in ("field", "mask")}
    (tmp_path / "5_finetune/config.json").write_text(json.dumps(scan))
    return tmp_path


def arguments(folder):
    return [
        f"srcFolder={folder}/5_finetune",
        f"dstFolder={folder}/7_evaluate",
        f"truthFile={folder}/truth.nii.gz",
        f"labelsFile={folder}/labels.nii.gz",
    ]


def rows_of(path):
    with open(path) as file:
        return {row["method"]: row for row in csv.DictReader(file)}


def test_scores_the_maps_of_step_5(folder, capsys):
    evaluate.main(load_config("step7_evaluate", arguments(folder)))
    out = folder / "7_evaluate"
    rows = rows_of(out / "scores.csv")
    assert list(rows) == ["tkd", "l2", "network", "finetuned"]
    first = ["method", "nrmse", "nrmse_detrend", "xsim", "hfen", "correlation", "nrmse_tissue"]
    assert list(rows["tkd"])[:7] == first
    assert float(rows["finetuned"]["nrmse"]) < float(rows["network"]["nrmse"])
    assert 0 < float(rows["l2"]["nrmse"]) < 90
    names = {p.name for p in out.iterdir()}
    assert names == {"scores.csv", "comparison.png", "tkd.nii.gz", "l2.nii.gz", "config.json"}
    assert (out / "comparison.png").read_bytes()[:4] == b"\x89PNG"
    printed = capsys.readouterr().out
    assert "finetuned" in printed
    assert "nrmse_dgm" in printed


def test_a_second_run_may_compare_others(folder):
    evaluate.main(load_config("step7_evaluate", arguments(folder)))
    changed = [*arguments(folder), 'compare=["tv"]', "labelsFile=None"]
    evaluate.main(load_config("step7_evaluate", changed))
    rows = rows_of(folder / "7_evaluate/scores.csv")
    assert list(rows) == ["tv", "network", "finetuned"]
    assert "nrmse_dgm" not in rows["tv"]


def test_command_line_of_one_map(folder, capsys):
    files = [str(folder / "5_finetune/chi.nii.gz")]
    for name in ("truth", "mask", "labels", "field"):
        files += [f"--{name}", str(folder / f"{name}.nii.gz")]
    compare = ["--compare", "tkd,l2,ndi,tv", "-o", str(folder / "out")]
    evaluate.command_line(files + compare)
    assert list(rows_of(folder / "out/scores.csv")) == ["tkd", "l2", "ndi", "tv", "chi"]
    evaluate.command_line(files)
    assert capsys.readouterr().out.count("nrmse_dgm") == 2


def test_scores_do_not_depend_on_how_the_axes_are_stored(folder, capsys):
    import nibabel as nib

    rows = []
    for axes in ("RAS", "ASL"):
        ornt = nib.orientations.axcodes2ornt(axes)  # the files begin as RAS
        for path in folder.rglob("*.nii.gz"):
            nib.save(nib.load(path).as_reoriented(ornt), path)
        config = load_config("step7_evaluate", arguments(folder))
        evaluate.main(config | {"compare": ["tkd"], "dstFolder": str(folder / axes)})
        rows.append(rows_of(folder / axes / "scores.csv")["tkd"])
    for name, value in rows[0].items():
        if name != "method":
            assert float(rows[1][name]) == pytest.approx(float(value), rel=1e-3, nan_ok=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"--truth": "none.nii.gz"}, "none.nii.gz"),
        ({"--mask": "small.nii.gz"}, "small.nii.gz"),
        ({"--compare": "magic"}, "magic"),
        ({"--field": None, "--compare": "tkd"}, "--field"),
        ({"--labels": "nan.nii.gz"}, "nan.nii.gz"),
    ],
)
def test_bad_input_is_one_line(folder, change, message, capsys):
    write_volume(folder / "small.nii.gz", np.ones((5, 6, 7)), affine=AFFINE)
    write_volume(folder / "nan.nii.gz", np.full(SHAPE, np.nan), affine=AFFINE)
    given = {f"--{name}": f"{name}.nii.gz" for name in ("truth", "mask", "labels", "field")}
    argv = [str(folder / "5_finetune/chi.nii.gz")]
    for name, value in (given | change).items():
        if value is not None:
            argv += [name, str(folder / value) if value.endswith(".gz") else value]
    with pytest.raises(SystemExit) as stop:
        evaluate.command_line(argv)
    assert stop.value.code == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert message in error


def test_options_may_come_before_the_map_and_a_missing_one_is_one_line(folder):
    script = [sys.executable, evaluate.__file__]
    files = [f"--{name}={folder / name}.nii.gz" for name in ("truth", "mask")]
    chi = str(folder / "5_finetune/chi.nii.gz")
    done = subprocess.run([*script, *files, chi], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "nrmse" in done.stdout
    done = subprocess.run([*script, chi], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "--truth" in done.stderr


def test_script_without_step_5_says_so(tmp_path):
    script = [sys.executable, PROJECT_ROOT / "network_model/evaluate.py"]
    found = subprocess.run(
        [*script, f"srcFolder={tmp_path}"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert found.returncode == 1
    assert found.stderr.count("\n") == 1
    assert "run step 5 first" in found.stderr


def test_table_and_csv_have_a_row_per_method():
    rng = np.random.default_rng(0)
    truth, mask = rng.standard_normal(SHAPE), np.ones(SHAPE, bool)
    rows = [{"method": name} | score(a * truth, truth, mask) for name, a in (("a", 1), ("b", 0.5))]
    assert len(table(rows)) == 3
    assert len({len(line) for line in table(rows)}) == 1
    assert csv_text(rows).splitlines()[2].startswith("b,50.0")
