"""Scores against the public scorer's, and on maps whose score is known."""

import numpy as np
import pytest
from qsm_ci.qsm_eval import score_arrays
from scipy.ndimage import gaussian_filter

from network_model.metrics import score

SHAPE = (30, 27, 32)


@pytest.fixture
def case():
    rng = np.random.default_rng(0)
    truth = gaussian_filter(rng.standard_normal(SHAPE), 1.5)
    truth = (0.05 * truth / truth.std()).astype(np.float32)
    recon = 0.8 * truth + 0.02 * rng.standard_normal(SHAPE).astype(np.float32) + 0.01
    mask = np.zeros(SHAPE, bool)
    mask[3:27, 2:27, 4:30] = True  # touches one face of the volume
    labels = rng.integers(0, 13, SHAPE)
    labels[14:18, 12:16, 14:18] = 16
    truth[14:18, 12:16, 14:18] = -2
    recon[14:18, 12:16, 14:18] = -1.7
    return recon, truth, mask, labels


def assert_equal_to_scorer(recon, truth, mask, labels):
    # The scorer reads its files as float64; on float32 arrays its own sums lose the sixth digit.
    recon, truth = recon.astype(float), truth.astype(float)
    expected, _ = score_arrays(recon, truth, mask.astype(np.uint8), "chi", seg=labels)
    ours = score(recon, truth, mask, labels)
    assert ours.keys() == expected.keys()
    for name, value in expected.items():
        assert ours[name] == pytest.approx(value, rel=1e-6, abs=1e-9, nan_ok=True), name


@pytest.mark.parametrize("with_labels", [False, True])
def test_equals_the_public_scorer(case, with_labels):
    recon, truth, mask, labels = case
    assert_equal_to_scorer(recon, truth, mask, labels if with_labels else None)


@pytest.mark.parametrize("value", [16, 11, 1])
def test_equals_the_public_scorer_without_a_label(case, value):
    recon, truth, mask, labels = case
    assert_equal_to_scorer(recon, truth, mask, np.where(labels == value, 8, labels))


@pytest.mark.parametrize(
    "change",
    [
        lambda r: np.zeros_like(r),
        lambda r: np.full_like(r, 0.25),
        lambda r: np.where(r > 0.1, np.nan, r),
        lambda r: np.abs(r),
        lambda r: 5 * r,
    ],
    ids=["zero", "constant", "nan", "no calcification", "scaled"],
)
def test_equals_the_public_scorer_on_poor_maps(case, change):
    recon, truth, mask, labels = case
    assert_equal_to_scorer(change(recon), truth, mask, labels)


def test_calcification_at_the_edge(case):
    recon, truth, mask, labels = case
    labels = np.where(labels == 16, 8, labels)
    labels[3:5, 2:4, 27:30] = 16
    assert_equal_to_scorer(recon, truth, mask, labels)


def test_truth_scores_itself(case):
    _, truth, mask, labels = case
    scores = score(truth, truth, mask, labels)
    assert scores["nrmse"] == scores["hfen"] == scores["nrmse_dgm"] == 0
    assert scores["xsim"] == pytest.approx(1)
    assert scores["correlation"] == pytest.approx(1)
    assert scores["coverage"] == 1


def test_detrending_undoes_a_line(case):
    _, truth, mask, _ = case
    scores = score(0.7 * truth - 0.1, truth, mask)
    assert scores["nrmse"] == pytest.approx(30, abs=0.01)
    assert scores["nrmse_detrend"] == pytest.approx(0, abs=1e-3)


def test_shapes_and_masks_are_checked(case):
    recon, truth, mask, _ = case
    with pytest.raises(ValueError, match="differ in shape"):
        score(recon[1:], truth, mask)
    with pytest.raises(ValueError, match="empty"):
        score(recon, truth, mask & False)
