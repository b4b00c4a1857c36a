"""Refinement of a map on its scan: what the field says is taken from the field."""

import numpy as np
import pytest
from scipy import ndimage

from network_model.refine import (
    DAMPED,
    data_step,
    flat_share,
    flatness,
    guided_mean,
    guided_variations,
    mean_off_cone,
    refine,
    structured_share,
    towards_data,
)
from network_model.strong import fit_strong, mend_field, strong_sources
from training_data.channels import make_channels
from training_data.dipole import dipole_kernel, field_inside, forward_field
from training_data.inversion import noise_weight, tv_admm, wiener
from training_data.noise import add_complex_noise, estimate_noise, smooth_noise, white_noise
from training_data.phantom import make_head
from training_data.randomlabels import make_random_labels

SHAPE, VOXEL, B0 = (36, 45, 32), (1.0, 0.9, 1.4), (0.2, -0.1, 0.97)


@pytest.fixture(scope="module")
def scan():
    """χ, its field with a little noise, and the mask of a small oblique, anisotropic scan."""
    rng = np.random.default_rng(3)
    axes = [np.linspace(-1, 1, n) for n in SHAPE]
    x, y, z = np.meshgrid(*axes, indexing="ij")
    mask = x**2 + y**2 + z**2 < 0.8
    chi = np.where((x - 0.2) ** 2 + y**2 + z**2 < 0.1, 0.15, -0.02) * mask
    chi = (chi - chi[mask].mean()) * mask
    field = forward_field(chi.astype(np.float32), VOXEL, B0)
    field += rng.normal(0, 5e-4, SHAPE).astype(np.float32)
    return chi.astype(np.float32), (field * mask).astype(np.float32), mask


def error(a, b, mask):
    d = (a - b)[mask]
    return float(np.linalg.norm(d - d.mean()))


def misfit(chi, field, mask):
    d = (field - forward_field(chi, VOXEL, B0))[mask]
    return float(np.linalg.norm(d - d.mean()))


def test_wrong_map_is_corrected_by_its_field(scan):
    chi, field, mask = scan
    wrong = ndimage.gaussian_filter(chi, 2) * mask
    better = refine(wrong, field, mask, VOXEL, B0)
    assert error(better, chi, mask) < 0.7 * error(wrong, chi, mask)
    assert misfit(better, field, mask) < 0.7 * misfit(wrong, field, mask)


def test_mean_with_wiener_leaves_the_cone_alone(scan):
    chi, field, mask = scan
    wrong = ndimage.gaussian_filter(chi, 2) * mask
    changed = mean_off_cone(wrong, field, mask, VOXEL, B0, share=0.8) - wrong
    whole = 0.8 * (wiener(field, mask, VOXEL, B0) - wrong)
    assert changed.dtype == np.float32
    assert not changed[~mask].any()
    kernel = np.abs(dipole_kernel(SHAPE, VOXEL, B0))
    k = [np.fft.fftfreq(SHAPE[0]), np.fft.fftfreq(SHAPE[1]), np.fft.rfftfreq(SHAPE[2])]
    squares = sum(np.meshgrid(*(f**2 for f in k), indexing="ij", sparse=True))
    for where, least, most in ((kernel < 0.05, 0, 0.25), (kernel > 0.35, 0.75, 1.05)):
        where &= squares > 0.01  # where k is low the mask's edge spreads one over the other
        sizes = [np.linalg.norm(np.fft.rfftn(x)[where]) for x in (changed, whole)]
        assert least < sizes[0] / sizes[1] < most
    half = mean_off_cone(wrong, field, mask, VOXEL, B0, share=0.4) - wrong
    np.testing.assert_allclose(half, changed / 2, atol=1e-6)


def test_damping_is_what_the_wiener_inverse_takes_off_the_maps_own_field(scan):
    chi, field, mask = scan
    wrong = ndimage.gaussian_filter(chi, 2) * mask
    geometry = (mask, VOXEL, B0)
    none, once, twice = (
        mean_off_cone(wrong, field, *geometry, share=0.8, damping=d) - wrong for d in (0, 1, 2)
    )
    np.testing.assert_allclose(twice - once, once - none, atol=1e-6)
    # A field that is the map's own leaves nothing to pull to.
    own = field_inside(wrong, *geometry) * mask
    np.testing.assert_allclose(
        mean_off_cone(wrong, own, *geometry, share=0.8, damping=0), wrong, atol=1e-6
    )
    damped = mean_off_cone(wrong, own, *geometry, share=0.8, damping=1)
    assert np.linalg.norm(damped) < 0.99 * np.linalg.norm(wrong)


def test_mean_with_wiener_leaves_strong_sources_alone(bleeding):
    chi, field, mask, source = bleeding
    changed = mean_off_cone(chi, field, mask, VOXEL, B0, share=1.0)
    np.testing.assert_array_equal(changed[source], chi[source])
    chosen = mean_off_cone(chi, field, mask, VOXEL, B0, share=1.0, sources=~mask)
    assert np.abs(chosen - chi)[source].max() > 0.02


def test_the_next_network_is_given_what_the_errors_allow(scan):
    chi, field, mask = scan
    wrong = ndimage.gaussian_filter(chi, 2) * mask
    geometry = (field, mask, VOXEL, B0)
    white, half, structured = (
        towards_data(wrong, *geometry, structured=share) for share in (0.0, 0.5, 1.0)
    )
    np.testing.assert_array_equal(white, data_step(wrong, *geometry, structured=0.0))
    np.testing.assert_array_equal(
        structured, mean_off_cone(wrong, *geometry, share=0.7, damping=1 / 0.7)
    )
    assert np.abs(half - data_step(wrong, *geometry, structured=0.5)).max() > 1e-4
    for given in (white, half, structured):
        assert error(given, chi, mask) < 0.95 * error(wrong, chi, mask)


def test_output_is_masked_float32_on_the_grid(scan):
    chi, field, mask = scan
    out = refine(chi, field, mask, VOXEL, B0)
    assert out.shape == SHAPE
    assert out.dtype == np.float32
    assert not out[~mask].any()


NOTHING = {"guided_share": 0.0, "wiener_share": 0.0, "prior_error": 0.0, "strong": np.inf}


def test_each_part_can_be_left_out(scan):
    chi, field, mask = scan
    np.testing.assert_array_equal(
        refine(chi + 1, field, mask, VOXEL, B0, **NOTHING), (chi + 1) * mask
    )


def test_every_part_brings_a_wrong_map_closer(scan):
    chi, field, mask = scan
    wrong = ndimage.gaussian_filter(chi, 2) * mask
    parts = ({"guided_share": 0.05}, {"prior_error": 0.05}, {"iterations": 20})
    for part in parts:
        better = refine(wrong, field, mask, VOXEL, B0, **NOTHING | part)
        assert error(better, chi, mask) < 0.9 * error(wrong, chi, mask)


@pytest.fixture(scope="module")
def bleeding(scan):
    """χ with a source of 2 ppm, its field with noise, the mask, and where the source is."""
    chi, field, mask = scan
    centre = np.subtract(np.indices(SHAPE).T, (20, 20, 12)).T
    source = (centre**2).sum(0) <= 2.5**2
    strong = forward_field((2 * source).astype(np.float32), VOXEL, B0)
    return chi + 2 * source, ((field + strong) * mask).astype(np.float32), mask, source


def test_strong_source_is_fitted_to_its_field_and_nothing_else_moves(bleeding):
    chi, field, mask, source = bleeding
    damped = np.where(source, 0.85 * chi, chi).astype(np.float32)
    sources = strong_sources(damped, mask)
    fitted = fit_strong(damped, field, mask, VOXEL, B0, sources=sources)
    assert (sources & source).sum() == source.sum()
    assert fitted[source].mean() == pytest.approx(chi[source].mean(), rel=0.01)
    assert misfit(fitted, field, mask) < 0.1 * misfit(damped, field, mask)
    np.testing.assert_array_equal(fitted[~sources], damped[~sources])


def test_refinement_recovers_a_strong_source_that_the_network_damps(bleeding):
    chi, field, mask, source = bleeding
    damped = np.where(source, 0.85 * chi, chi).astype(np.float32)
    means = {
        strong: refine(damped, field, mask, VOXEL, B0, structured=0.0, strong=strong)[source].mean()
        for strong in (0.4, np.inf)
    }
    truth = chi[source].mean()
    assert abs(means[0.4] - truth) < min(0.02 * truth, abs(means[np.inf] - truth))


def test_structured_errors_leave_strong_sources_to_the_network(bleeding):
    chi, field, mask, _ = bleeding
    sources = strong_sources(chi, mask)
    refined = refine(chi, field, mask, VOXEL, B0, structured=1.0)
    np.testing.assert_array_equal(refined[sources], chi.astype(np.float32)[sources])
    assert np.abs(refined - chi)[mask & ~sources].max() > 1e-3


def test_strong_sources_do_not_depend_on_the_reference(bleeding):
    chi, _, mask, _ = bleeding
    expected = strong_sources(chi, mask)
    np.testing.assert_array_equal(strong_sources((chi + 1) * mask, mask), expected)


def test_map_of_nothing_but_strong_sources_stays_a_map(scan):
    """As where the field's unit is mistaken: it is warned of elsewhere."""
    chi, field, mask = scan
    refined = refine(100 * chi, 100 * field, mask, VOXEL, B0, structured=0.0)
    assert np.isfinite(refined).all()
    assert refined.any()


def test_without_strong_sources_there_is_nothing_to_fit(scan):
    chi, field, mask = scan
    sources = strong_sources(chi, mask)
    assert not sources.any()
    np.testing.assert_array_equal(fit_strong(chi, field, mask, VOXEL, B0, sources=sources), chi)


@pytest.fixture(scope="module")
def void(bleeding):
    """As `bleeding`, with a field that is wrong inside the source, where there is no signal."""
    chi, field, mask, source = bleeding
    wrong = np.random.default_rng(4).normal(0, 0.3, SHAPE).astype(np.float32)
    return chi.astype(np.float32), field + wrong * source, mask, source


def test_field_in_a_void_is_taken_as_the_map_explains_it(void, bleeding):
    chi, field, mask, source = void
    clean = bleeding[1]
    sources = strong_sources(chi, mask)
    damped = np.where(source, 0.9 * chi, chi).astype(np.float32)
    kept, mended, trust, sound = mend_field(damped, field, mask, VOXEL, B0)
    assert not sound.any()
    np.testing.assert_array_equal(kept, damped)
    assert np.abs(mended - clean)[source].max() < 0.02 * np.abs(field - clean)[source].max()
    assert trust[source].mean() < 0.05
    assert trust[mask & ~sources].mean() > 0.9
    assert not trust[~mask].any()


def test_field_far_from_strong_sources_is_never_mended(void):
    chi, field, mask, source = void
    corner = tuple(np.argwhere(mask)[0])
    wrong = field.copy()
    wrong[corner] += 1
    _, mended, trust, _ = mend_field(chi, wrong, mask, VOXEL, B0)
    far = ndimage.distance_transform_edt(~source, sampling=VOXEL) > 10
    assert far[corner]
    np.testing.assert_array_equal(mended[far], wrong[far])
    assert (trust[far & mask] == 1).all()
    assert mend_field(chi, wrong, mask, VOXEL, B0, strong=np.inf)[:2] == (chi, wrong)


def test_structured_errors_put_no_field_in_doubt(void):
    chi, field, mask, _ = void
    fitted, kept, trust, _ = mend_field(chi, field, mask, VOXEL, B0, share=0.0)
    assert fitted is chi
    assert kept is field
    np.testing.assert_array_equal(trust, mask)
    half = mend_field(chi, field, mask, VOXEL, B0, share=0.5)[2]
    assert half[mask].min() == pytest.approx(0.5, abs=0.1)


def test_field_of_a_source_that_the_map_damps_is_left_alone(bleeding):
    chi, field, mask, source = bleeding
    damped = np.where(source, 0.8 * chi, chi).astype(np.float32)
    _, mended, _, _ = mend_field(damped, field, mask, VOXEL, B0)
    assert np.abs(mended - field).max() < 0.05 * np.abs(field[source]).max()


def test_source_is_sound_if_it_explains_its_own_field(void, bleeding):
    chi, spoilt, mask, source = void
    damped = np.where(source, 0.8 * chi, chi).astype(np.float32)
    fitted, _, _, sound = mend_field(damped, bleeding[1], mask, VOXEL, B0)
    assert (sound[source] == 1).all()
    assert not sound[~strong_sources(damped, mask)].any()
    assert fitted[source].mean() == pytest.approx(chi[source].mean(), rel=0.02)
    half = mend_field(damped, bleeding[1], mask, VOXEL, B0, share=0.5)
    np.testing.assert_array_equal(half.sound, 0.5 * sound)
    # By voxel or for all: the same fit.
    sources = strong_sources(damped, mask)
    everywhere, nowhere = (
        fit_strong(damped, spoilt, mask, VOXEL, B0, sources=sources, share=x)
        for x in (0.3, np.where(source, 0, 0.3))
    )
    np.testing.assert_array_equal(nowhere[source], damped[source])
    rest = sources & ~source
    np.testing.assert_array_equal(nowhere[rest], everywhere[rest])


def test_reference_of_a_field_moves_no_strong_source(void):
    chi, field, mask, _ = void
    fits = [mend_field(chi, x, mask, VOXEL, B0) for x in (field, field + 0.5 * mask)]
    np.testing.assert_allclose(fits[1][0], fits[0][0], atol=1e-4)
    np.testing.assert_allclose(fits[1][2], fits[0][2], atol=1e-3)


def test_finest_detail_is_damped_and_strong_sources_are_not():
    shape = (24, 20, 22)
    x, y, z = np.indices(shape)
    slow = (0.03 * np.sin(2 * np.pi * x / 24)).astype(np.float32)
    fine = (0.01 * (-1.0) ** (x + y + z)).astype(np.float32)
    mask, source = np.ones(shape, bool), np.zeros(shape, bool)
    source[12, 10, 11] = True
    chi = slow + fine + np.float32(1.5) * source
    found = guided_mean(chi, 0 * chi, mask, VOXEL, B0, noise=0.003, share=1e-7)
    np.testing.assert_allclose(found[source], chi[source], atol=1e-5)
    far = ~ndimage.binary_dilation(source, iterations=4)
    sigmas = DAMPED * min(VOXEL) / np.array(VOXEL)
    kept = np.exp(-2 * (np.pi * sigmas / 2) ** 2).prod()
    assert (found - slow)[far] @ fine[far] / (fine[far] @ fine[far]) == pytest.approx(
        kept, rel=0.05
    )
    assert found[far] @ slow[far] / (slow[far] @ slow[far]) == pytest.approx(1, rel=0.02)


@pytest.mark.parametrize(
    ("noise", "flat", "number"),
    [(0.003, 0, 15), (0.002, 0, 22), (1e-4, 0, 40), (0.01, 0, 9), (0.01, 1, 40)],
)
def test_guided_variations_are_stopped_the_earlier_the_more_noise(scan, noise, flat, number):
    chi, field, mask = scan
    geometry = (mask, VOXEL, B0)
    map_ = 0.8 * chi
    found = guided_variations(map_, field, *geometry, noise=noise, flat=flat)
    options = {"weight": 4 * noise_weight(noise), "guide": map_, "iterations": number}
    np.testing.assert_array_equal(found[0], tv_admm(field, *geometry, **options))
    left = ((field - field_inside(map_, *geometry)) * mask).astype(np.float32)
    np.testing.assert_array_equal(found[1], map_ + tv_admm(left, *geometry, **options))


@pytest.mark.parametrize("flat", [0.0, 1.0])
def test_texture_is_refined_by_the_white_noise_alone(monkeypatch, flat):
    head = make_head((64, 72, 60), (2.0, 2.0, 2.2), np.random.default_rng(2010))
    chi, mask = head["chi"], head["mask"]
    scan = (forward_field(chi, (2.0, 2.0, 2.2), B0) * mask, mask, (2.0, 2.0, 2.2), B0)
    noise, asked = estimate_noise(*scan), []
    monkeypatch.setattr("network_model.refine.flat_share", lambda *_: flat)
    monkeypatch.setattr(
        "network_model.refine.guided_variations",
        lambda chi, *_, noise, **__: asked.append(noise) or (chi, chi),
    )
    guided_mean(chi, *scan, noise=noise)
    assert white_noise(*scan) < 0.9 * noise
    assert asked == pytest.approx([noise if flat else white_noise(*scan)])


def test_a_void_does_not_spoil_the_refined_map(void, bleeding):
    chi, field, mask, source = void
    clean = refine(chi, bleeding[1], mask, VOXEL, B0, structured=0.0)
    spoiled = refine(chi, field, mask, VOXEL, B0, structured=0.0)
    unmended = refine(chi, field, mask, VOXEL, B0, structured=0.0, strong=np.inf)
    mended, worst = (error(x, clean, mask) for x in (spoiled, unmended))
    assert mended < 0.35 * worst
    assert spoiled[source].mean() == pytest.approx(clean[source].mean(), rel=0.03)


def test_strong_pull_keeps_the_map(scan):
    chi, field, mask = scan
    admm = {"iterations": 20, "pull": 1e4, "weight_share": 1e-3}
    kept = refine(chi, field, mask, VOXEL, B0, **NOTHING | admm)
    assert error(kept, chi, mask) < 0.02 * np.linalg.norm(chi)


@pytest.mark.parametrize("b0_dir", [(0.0, 0.0, 1.0), (0.3, -0.2, 0.93)])
def test_structured_errors_are_told_from_white_ones(b0_dir):
    voxel = (2.0, 2.2, 2.4)
    head = make_head((80, 85, 70), voxel, np.random.default_rng(5))
    mask, rng = head["mask"], np.random.default_rng(1)
    clean = forward_field(head["chi"], voxel, b0_dir) * mask
    for sigma in (0.0, 0.003, 0.01):
        white = add_complex_noise(clean, mask, None, sigma, rng)
        assert structured_share(white, mask, voxel, b0_dir) < 0.3
    disturbed = clean + 0.6 * clean[mask].std() * smooth_noise(mask.shape, rng, 1.5) * mask
    assert structured_share(disturbed, mask, voxel, b0_dir) > 0.7
    assert structured_share(0 * clean, mask, voxel, b0_dir) == 0


def test_strong_regions_are_not_taken_for_structured_errors():
    """Signal that leaks onto the cone, because the field is cut at the mask, is not an error."""
    chi, mask = make_random_labels((72, 80, 68), (2.0, 2.0, 2.0), np.random.default_rng(9001))
    field = forward_field(chi, (2.0, 2.0, 2.0)) * mask
    noisy = add_complex_noise(field, mask, None, 0.003, np.random.default_rng(1))
    geometry = (mask, (2.0, 2.0, 2.0))
    assert structured_share(noisy, *geometry) < 0.3
    tv = make_channels(noisy, *geometry, (0.0, 0.0, 1.0), ["tv"])["tv"]
    assert structured_share(noisy, *geometry, tv=tv) == structured_share(noisy, *geometry)


def test_flatness_tells_flat_regions_from_texture():
    rng = np.random.default_rng(2)
    mask = np.ones((20, 24, 22), bool)
    steps = (np.arange(20) // 5)[:, None, None] * np.ones(mask.shape)
    texture = smooth_noise(mask.shape, rng, 1.0)
    assert flatness(0 * steps, mask) == 1
    assert flatness(steps, mask) == np.inf
    assert flatness(texture, mask) < 1.3
    assert flatness(texture, mask) < flatness(steps + 0.05 * texture, mask)
    assert flatness(3 * texture, mask) == pytest.approx(flatness(texture, mask), rel=1e-5)


def test_flat_share_looks_away_from_strong_sources():
    mask = np.ones((30, 32, 34), bool)
    texture = 0.02 * smooth_noise(mask.shape, np.random.default_rng(3), 1.0)
    steps = np.float32(0.05) * (np.arange(30) // 6 % 2)[:, None, None] * np.ones(mask.shape)
    assert flat_share(texture, mask) == 0
    assert flat_share(steps, mask) == 1
    assert 0 < flat_share(steps + 0.4 * texture, mask) < 1
    source = texture.copy()
    source[10:14, 12:16, 12:16] += 2
    assert flatness(source, mask) > flatness(texture, mask)
    assert flat_share(source, mask) == 0


def test_a_structured_share_that_is_known_already_changes_nothing(scan):
    chi, field, mask = scan
    found = refine(chi, field, mask, VOXEL, B0)
    known = structured_share(field, mask, VOXEL, B0)
    given = refine(chi, field, mask, VOXEL, B0, structured=known)
    np.testing.assert_array_equal(given, found)
    assert np.abs(refine(chi, field, mask, VOXEL, B0, structured=1 - known) - found).max() > 1e-4


def test_scale_of_the_magnitude_does_not_matter(scan):
    chi, field, mask = scan
    magnitude = np.linspace(1, 3, mask.size, dtype=np.float32).reshape(SHAPE)
    a = refine(chi, field, mask, VOXEL, B0, magnitude=magnitude)
    b = refine(chi, field, mask, VOXEL, B0, magnitude=1000 * magnitude)
    np.testing.assert_allclose(a, b, atol=1e-6)


def test_shapes_that_differ_are_refused(scan):
    chi, field, mask = scan
    with pytest.raises(ValueError, match="shape"):
        refine(chi, field, mask[:-1], VOXEL, B0)
