"""The QSM-CI entry: built, run with folders in the platform's form, scored by its own scorer."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scans import INVERSION, KERAS_ON_NUMPY, PLAIN, VOXEL, make_network, tilted_affine, write_scan

from configs import PROJECT_ROOT
from network_model.pack import main as pack
from training_data.nifti import read_volume

pytestmark = KERAS_ON_NUMPY
B0_DIR = (0.2, 0.1, 0.97)
ENVIRONMENT = {**os.environ, "PYTHON": sys.executable, "PYTHONPATH": ""}
LIBRARIES = ("numpy", "scipy", "nibabel", "h5py", "keras", "tensorflow", "tqdm")
# What the platform's image does not have, and this environment has.
ABSENT = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name in ("matplotlib", "nilearn", "pandas", "skimage", "PIL", "configs", "qsm_ci"):
            raise ModuleNotFoundError(f"no module named {name!r} in the platform's image")
sys.meta_path.insert(0, Absent())
"""


def execute(*command, **kwargs):
    command = [str(c) for c in command]
    return subprocess.run(command, capture_output=True, text=True, check=False, **kwargs)


@pytest.fixture(scope="module")
def entry(tmp_path_factory):
    """The built folder with tiny networks, stacked as those that are shipped."""
    root = tmp_path_factory.mktemp("entry")
    make_network(root / "first.h5", INVERSION)
    make_network(root / "white.h5", INVERSION, seed=1)
    keys = {"inputs": ["field", "first", "tv"], "firstFile": str(root / "first.h5"), "tile": 32}
    make_network(root / "second.h5", PLAIN | keys | {"norm": "none"})
    names = [str(root / name) for name in ("net.h5", "first.h5", "second.h5")]
    pack([*names, "--first-share", "0.5", "--white", "white.h5"])
    build = [sys.executable, PROJECT_ROOT / "qsm-ci/build.py"]
    options = [f"weightsFile={root / 'net.h5'}", f"dstFolder={root / 'qsminvnet'}"]
    done = execute(*build, *options)
    assert done.returncode == 0, done.stderr
    return root / "qsminvnet"


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Input folder in the platform's form, and the truth beside it."""
    root = tmp_path_factory.mktemp("platform")
    write_scan(root, tilted_affine(10), b0_dir=B0_DIR)
    (root / "input").mkdir()
    (root / "field.nii.gz").rename(root / "input/localfield.nii.gz")
    (root / "mask.nii.gz").rename(root / "input/mask.nii.gz")
    params = {"TE": [0.004, 0.012], "B0": 7, "B0_dir": B0_DIR, "voxel_size": list(VOXEL)}
    (root / "input/params.json").write_text(json.dumps(params))
    return root / "input"


def test_runs_in_the_platforms_form_and_is_scored(entry, source, tmp_path):
    qsm_eval = pytest.importorskip("qsm_ci.qsm_eval")
    out = tmp_path / "output"
    (tmp_path / "sitecustomize.py").write_text(ABSENT)
    environment = {**ENVIRONMENT, "PYTHONPATH": str(tmp_path)}
    before = {p: p.stat().st_mtime for p in entry.rglob("*")}
    done = execute("bash", entry / "run.sh", source, out, env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "B0 direction (0.201, 0.100, 0.974)" in done.stdout
    assert "warning: voxel_size" not in done.stdout
    assert {p: p.stat().st_mtime for p in entry.rglob("*")} == before
    image, field = (nib.load(p) for p in (out / "chimap.nii.gz", source / "localfield.nii.gz"))
    assert image.shape == field.shape
    np.testing.assert_array_equal(image.affine, field.affine)
    truth = read_volume(source.parent / "chi.nii.gz").data
    mask = read_volume(source / "mask.nii.gz").data.astype(np.uint8)
    scores, _ = qsm_eval.score_arrays(image.get_fdata(), truth, mask, "chi")
    nrmse = next(v for k, v in scores.items() if k.lower() == "nrmse")
    assert 0 < nrmse < 60
    assert not image.get_fdata()[mask == 0].any()


def test_entry_is_complete_and_known_to_the_platforms_tool(entry):
    names = {p.name for p in entry.iterdir()}
    assert names == {
        "algorithm.yml", "run.sh", "recon.py", "Dockerfile", "requirements.txt", "weights.h5",
        "white.h5", "SHA256SUMS", "network_model", "training_data",
    }  # fmt: skip
    assert os.access(entry / "run.sh", os.X_OK)
    libraries = (entry / "requirements.txt").read_text()
    for name in LIBRARIES:
        assert f"\n{name}" in "\n" + libraries
    assert "pytest" not in libraries
    tool = Path(sys.executable).with_name("qsm-ci")
    if not tool.exists() and not shutil.which("qsm-ci"):
        pytest.skip("the PyPI package qsm-ci is not installed")
    said = execute(tool if tool.exists() else "qsm-ci", "run", entry)
    text = said.stdout + said.stderr
    assert "QSMInvNet" in text
    assert "dipole stage" in text
    assert "localfield, mask, params" in text


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("params.json", "{", "params.json: not readable as JSON"),
        ("params.json", "[1]", "expected a JSON object, found list"),
        ("params.json", '{"B0_dir": [0, 0, 0]}', "b0_dir"),
        ("params.json", '{"B0_dir": 3}', "not iterable"),
        ("config.json", '{"lambda": 1}', "unknown parameter 'lambda'"),
        ("config.json", '{"refine": 1}', "refine 1: expected such as True"),
        ("config.json", '{"finetune": 1.5}', "finetune 1.5"),
    ],
)
def test_bad_input_is_one_line_and_no_map(source, tmp_path, name, text, words, capsys, monkeypatch):
    for file in source.iterdir():
        shutil.copy(file, tmp_path / file.name)
    make_network(tmp_path / "weights.h5", INVERSION)
    (tmp_path / name).write_text(text)
    recon = load_recon(monkeypatch)
    recon.WEIGHTS = tmp_path / "weights.h5"
    with pytest.raises((ValueError, TypeError)) as problem:
        recon.main(tmp_path, tmp_path / "out")
    assert words in str(problem.value)
    assert not list(tmp_path.glob("out/*"))


def load_recon(monkeypatch):
    monkeypatch.syspath_prepend(PROJECT_ROOT / "qsm-ci")
    monkeypatch.delitem(sys.modules, "recon", raising=False)
    import recon

    return recon


def test_missing_params_end_with_one_line(entry, tmp_path):
    done = execute("bash", entry / "run.sh", tmp_path, tmp_path / "out", env=ENVIRONMENT)
    assert done.returncode == 1
    assert len(done.stderr.strip().splitlines()) == 1
    assert done.stderr.startswith("error: ")


def test_another_folder_is_not_overwritten(tmp_path):
    (tmp_path / "thesis.txt").touch()
    (tmp_path / "net.h5").touch()
    build = [sys.executable, PROJECT_ROOT / "qsm-ci/build.py", f"weightsFile={tmp_path / 'net.h5'}"]
    done = execute(*build, f"dstFolder={tmp_path}")
    assert done.returncode == 1
    assert "is no such entry" in done.stderr
    assert (tmp_path / "thesis.txt").exists()
