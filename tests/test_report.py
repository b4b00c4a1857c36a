"""Report: self-contained, complete, says what it finds; draws in a browser where there is one."""

import html
import re
import shutil
import subprocess

import matplotlib.image
import numpy as np
import pytest
from scans import SHAPE, VOXEL, make_scan

from network_model.reconstruction import Result
from network_model.report import citations, make_report, methods_text, region_rows
from network_model.report_checks import findings, residual_numbers
from network_model.subject import make_subject
from training_data.dipole import forward_field

SIGMA = 0.001
PARAMETERS = {
    "Tool": "QSMInvNet", "Version": "1.2.3", "Weights": "default.h5", "WeightsSHA256": "ab" * 32,
    "ReferenceRegion": "brain", "ReferenceValue_ppm": 0.0123, "ReferenceVoxels": 77,
    "Field": "sub-01<b>_localfield.nii.gz", "MagneticFieldStrength": 7.0, "B0_dir": [0, 0, 1.0],
    "VoxelSize": [1.0, 1.2, 1.5], "NoiseEstimate_ppm": SIGMA, "BrainMean_ppm": -1e-9,
    "Steps": [{"step": "network", "inputs": ["field", "mask"]},
              {"step": "fine-tuning", "iterations": 200, "tv_weight": 0.001}],
}  # fmt: skip


def make_result(chi_scale=1.0, warnings=(), magnitude=True):
    """A result whose map is the truth times a factor, and whose network's map is half the truth."""
    scan = make_scan()
    subject = make_subject(
        scan["field"], scan["mask"], VOXEL, magnitude=scan["magnitude"] if magnitude else None
    )
    maps = [scan["chi"] * np.float32(s) for s in (chi_scale, 0.5)]
    left = [(subject.field - forward_field(m, VOXEL)) * subject.mask for m in maps]
    rms = [float(np.sqrt(np.mean(x[subject.mask] ** 2))) for x in left]
    parameters = PARAMETERS | {"Misfit_ppm": rms[0], "MisfitNetwork_ppm": rms[1]}
    parameters["BrainSD_ppm"] = float(maps[0][subject.mask].std())
    labels = np.zeros(SHAPE, np.int32)
    labels[12:16, 14:18, 10:14], labels[16:20, 14:18, 10:14], labels[:2] = 2, 99, 3
    return Result(subject, *maps, *left, parameters, list(warnings), labels)


def test_background_that_was_taken_off_counts_as_no_field_that_is_explained():
    plain, shifted = make_result(), make_result()
    shifted.course = np.linspace(-0.1, 0.1, SHAPE[0], dtype=np.float32)[:, None, None] * np.ones(
        SHAPE
    )
    shifted.subject.field = shifted.subject.field + shifted.course
    texts = [[f.text for f in findings(result)] for result in (plain, shifted)]
    assert texts[0] == texts[1]


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """Path and text of a report with everything in it."""
    path = tmp_path_factory.mktemp("report") / "report.html"
    make_report(make_result(warnings=["the unit <looks> wrong & so on"]), path)
    return path, path.read_text(encoding="utf-8")


LOADS = (
    r"""(src|href|srcset|poster|action)\s*=\s*["']?\s*(https?:)?//""",
    r"""@import|url\(\s*["']?(https?:)?//|importScripts|<link[^>]+http""",
    r"""(fetch|XMLHttpRequest|WebSocket)\s*\(\s*["']https?:""",
)


def test_loads_nothing(page):
    for text in (page[1], html.unescape(page[1])):
        assert not [pattern for pattern in LOADS if re.search(pattern, text)]


def test_contents(page):
    text = page[1]
    assert "$" not in text.split("<main>")[1].split("<iframe")[0]
    assert text.count("data:image/png;base64,") >= 4
    assert text.count("<iframe") == 2
    assert "spriteImg" in text
    assert "the unit &lt;looks&gt; wrong &amp; so on" in text
    assert "sub-01&lt;b&gt;_localfield.nii.gz" in text
    assert "sub-01<b>" not in text
    for words in ("globus pallidus", "arXiv:1904.05493", "arXiv:2206.13225", "Can I trust it?"):
        assert words in text
    assert text.index("the unit &lt;looks") < text.index("Can I trust it?")
    assert "0.0000 ±" in text
    assert "-0.0000 ±" not in text


def test_without_magnitude_labels_and_warnings(tmp_path):
    result = make_result(magnitude=False)
    result.labels = None
    make_report(result, tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert text.count("<iframe") == 1
    assert 'class="warnings"' not in text
    assert "<h2>Regions</h2>" not in text


@pytest.mark.parametrize("scale", [1e-5, 0, 30])
def test_maps_of_any_size_have_a_report(tmp_path, scale):
    result = make_result()
    for name in ("chi", "residual", "residual_network"):
        setattr(result, name, getattr(result, name) * np.float32(scale))
    make_report(result, tmp_path / "report.html")
    assert (tmp_path / "report.html").stat().st_size > 10_000


def test_region_table():
    result = make_result()
    rows = {row["label"]: row for row in region_rows(result)}
    assert set(rows) == {2, 99}  # label 3 lies outside the mask
    inside = result.chi[(result.labels == 2) & result.subject.mask]
    assert (rows[2]["region"], rows[99]["region"]) == ("globus pallidus", "")
    assert rows[2]["voxels"] == inside.size
    np.testing.assert_allclose(rows[2]["mean"], inside.mean(), rtol=1e-5)
    np.testing.assert_allclose(rows[2]["sd"], inside.std(), rtol=1e-5)
    np.testing.assert_allclose(rows[2]["median"], np.median(inside), rtol=1e-6)


def levels(result):
    return {f.title: f.level for f in findings(result)}


def test_a_good_map_is_called_good():
    found = levels(make_result())
    assert set(found.values()) == {"good"}


def test_a_map_that_does_not_explain_the_field_is_called_bad():
    found = levels(make_result(chi_scale=-1, warnings=["sign"]))
    assert found["Misfit against noise"] == found["Data fit"] == found["Input"] == "bad"
    assert found["Residual structure"] == "note"


def test_an_overfitted_map_is_noted():
    result = make_result()
    result.residual = result.residual * np.float32(0.3)
    assert levels(result)["Misfit against noise"] == "note"


def test_background_at_the_edge_is_noted():
    result = make_result()
    mask = result.subject.mask
    numbers = residual_numbers(result.subject, result.residual)
    np.testing.assert_allclose(numbers["rim_ratio"], 1, atol=0.1)
    assert abs(numbers["neighbor_correlation"]) < 0.1
    rim = mask & ~np.roll(mask, 1, 1)
    result.residual = result.residual + np.float32(0.02) * rim
    assert levels(result)["Edge of the mask"] == "note"


def test_unreferenced_values_are_noted():
    result = make_result()
    result.parameters["ReferenceRegion"] = "none"
    assert levels(result)["Reference"] == "note"


def test_methods_text_names_what_the_consensus_asks_for():
    text = methods_text(PARAMETERS)
    for words in (
        "7 T", "1×1.2×1.5 mm", "QSMInvNet 1.2.3", "abababababab", "iterations 200",
        "tv weight 0.001", "ppm", "mean of brain (0.0123 ppm, 77 voxels)", "[0, 0, 1.0]",
    ):  # fmt: skip
        assert words in text
    assert "1.2.3" in citations(PARAMETERS)[-1]
    assert "No reference region" in methods_text(PARAMETERS | {"ReferenceRegion": "none"})


SWITCHES = """--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --hide-scrollbars
    --disable-background-networking --disable-component-update --disable-sync --v=0
    --host-resolver-rules=MAP_*_~NOTFOUND --enable-logging=stderr --virtual-time-budget=10000
    --window-size=1100,5000"""
SWITCHES = [switch.replace("_", " ") for switch in SWITCHES.split()]
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.mark.skipif(not BROWSER, reason="no Chromium on this machine (Debian: chromium)")
def test_draws_in_a_browser_without_network(page, tmp_path):
    picture = tmp_path / "page.png"
    command = [
        BROWSER, *SWITCHES, f"--user-data-dir={tmp_path / 'user'}", f"--screenshot={picture}",
        page[0].as_uri(),
    ]  # fmt: skip
    run = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    said = [line for line in run.stderr.splitlines() if "CONSOLE" in line]
    said = [line for line in said if "report.html" in line or "srcdoc" in line]
    assert not [line for line in said if "INFO:CONSOLE" not in line or "Uncaught" in line]
    shown = matplotlib.image.imread(picture)[..., :3]
    # Only the viewers' cross hairs are of pure blue.
    pure_blue = (shown[..., 2] > 0.95) & (shown[..., :2].max(-1) < 0.05)
    rows = np.flatnonzero(pure_blue.any(1))
    assert pure_blue.sum() > 500
    assert rows.max() - rows.min() > 500  # in both viewers
