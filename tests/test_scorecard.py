"""Score card: cases hold what their names say, rows are scored and finished ones are kept."""

import csv

import numpy as np
import pytest

from configs import load_config
from network_model import cases, scorecard
from network_model.unet import build_unet, make_spec, save_network
from training_data.dipole import forward_field

SHAPE = (48, 56, 44)


@pytest.fixture(scope="module")
def head():
    return cases.drawn_head(1000, SHAPE)


@pytest.fixture
def config(tmp_path):
    spec = make_spec({"inputs": ["field", "mask", "tv"], "residual": "tv", "filters": 2,
                      "depth": 2, "norm": "none", "use_bias": False})  # fmt: skip
    save_network(build_unet(spec, ("target",)), spec, tmp_path / "w.h5")
    changed = {
        "weightsFile": str(tmp_path / "w.h5"), "dstFolder": str(tmp_path / "out"),
        "dataFolder": str(tmp_path), "shape": SHAPE, "finetune": 1,
        "cases": ["head1000", "head1000_lesions"],
    }  # fmt: skip
    return load_config("scorecard", []) | changed


def test_noise_of_a_case_is_as_asked(head):
    case = cases.simulate(head, 0.003, 1)
    clean = forward_field(head.chi, head.voxel_size)
    noise = (case.subject.field - clean)[head.mask]
    assert 1.4826 * np.median(np.abs(noise)) == pytest.approx(0.003, rel=0.1)


def test_structured_errors_are_of_the_size_asked_for(head):
    case = cases.disturb(head, 0.0, 1, 0.5)
    clean = forward_field(head.chi, head.voxel_size)[head.mask]
    errors = case.subject.field[head.mask] - clean
    assert errors.std() == pytest.approx(0.5 * clean.std(), rel=1e-3)


def test_tilted_case_is_made_with_its_own_b0(head):
    case = cases.simulate(head, 0.0, 1, cases.TILT)
    np.testing.assert_allclose(case.subject.b0_dir, cases.TILT, atol=1e-6)
    field = forward_field(head.chi, head.voxel_size, cases.TILT) * head.mask
    np.testing.assert_allclose(case.subject.field, field, atol=1e-6)


def test_pairs_of_slices_are_averaged(head):
    thick = cases.pair_slices(head)
    assert thick.voxel_size == (1.0, 1.0, 2.0)
    at = tuple(np.argwhere(thick.mask)[len(np.argwhere(thick.mask)) // 2])
    x, y, z = at
    assert thick.chi[at] == pytest.approx(head.chi[x, y, 2 * z : 2 * z + 2].mean(), abs=1e-6)


def test_lesions_add_their_susceptibility(head):
    changed, where = cases.add_lesions(head)
    for number, (_, _, value) in enumerate(cases.LESIONS, 1):
        at = where == number
        assert at.any()
        np.testing.assert_allclose((changed.chi - head.chi)[at], value, atol=1e-5)


def test_every_method_is_scored_and_finished_rows_are_kept(config, monkeypatch):
    scorecard.main(config)
    path = f"{config['dstFolder']}/scores.csv"
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(r["case"], r["method"]) for r in rows] == [
        (c, m) for c in config["cases"] for m in config["methods"]
    ]
    assert all(0 < float(r["nrmse"]) < 300 for r in rows)
    assert all(r["lesion1"] for r in rows if r["case"].endswith("lesions"))

    order = config | {"methods": ["refined", "network"], "dstFolder": f"{config['dstFolder']}2"}
    scorecard.main(order | {"cases": config["cases"][:1]})  # the latter is made first

    monkeypatch.setattr(scorecard, "reconstruct_case", lambda *_: pytest.fail("scored again"))
    scorecard.main(config)


def test_unknown_method_and_case_are_refused(config):
    with pytest.raises(ValueError, match="methods"):
        scorecard.main(config | {"methods": ["magic"]})
    with pytest.raises(ValueError, match="cases"):
        scorecard.main(config | {"cases": ["nobody"]})
