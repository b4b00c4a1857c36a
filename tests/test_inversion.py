"""Classical inversions: known answers, optimality, agreement with each other, any grid."""

import types

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from training_data import backend, inversion
from training_data.backend import gpu_available, on_fastest
from training_data.dipole import dipole_kernel, field_inside, forward_field
from training_data.noise import ERROR_SHARES, add_model_errors
from training_data.phantom import make_head

SHAPE = (41, 36, 33)  # unequal, two odd
VOXEL = (1.0, 1.1, 1.4)
OBLIQUE = (0.2, -0.3, 0.9)
METHODS = {
    "tkd": inversion.tkd,
    "closed_form_l2": inversion.closed_form_l2,
    "tikhonov": inversion.tikhonov,
    "wiener": inversion.wiener,
    "ndi": inversion.ndi,
    "tv_admm": inversion.tv_admm,
    "tv_nonlinear": lambda *args, **keys: inversion.tv_admm(*args, nonlinear=True, **keys),
}


def ball(shape, center, radius, voxel_size):
    index = np.indices(shape).reshape(3, -1).T
    distance = np.linalg.norm((index - center) * voxel_size, axis=1)
    return (distance <= radius).reshape(shape)


def phantom(shape=SHAPE, voxel_size=VOXEL, b0_dir=(0, 0, 1)):
    """χ, mask and field of two balls in a ball of brain."""
    mask = ball(shape, (np.array(shape) - 1) / 2, 16, voxel_size)
    chi = 0.1 * ball(shape, (20, 17, 16), 5, voxel_size)
    chi -= 0.05 * ball(shape, (28, 20, 18), 3, voxel_size)
    chi = chi.astype(np.float32)
    return chi, mask, forward_field(chi, voxel_size, b0_dir)


def error(chi, truth, mask):
    x, t = chi[mask] - chi[mask].mean(), truth[mask] - truth[mask].mean()
    return np.linalg.norm(x - t) / np.linalg.norm(t)


@pytest.mark.parametrize("b0_dir", [(0, 0, 1), OBLIQUE], ids=["straight", "oblique"])
@pytest.mark.parametrize("name", METHODS)
def test_recovers_the_balls(name, b0_dir):
    chi, mask, field = phantom(b0_dir=b0_dir)
    found = METHODS[name](field, mask, VOXEL, b0_dir)
    assert found.shape == SHAPE
    assert found.dtype == np.float32
    assert not found[~mask].any()
    assert error(found, chi, mask) < 0.5
    inner = ball(SHAPE, (20, 17, 16), 3.5, VOXEL)
    rest = mask & (chi == 0)
    assert found[inner].mean() - found[rest].mean() == pytest.approx(0.1, abs=0.035)


@pytest.mark.parametrize("name", METHODS)
def test_takes_the_direction_of_b0_and_the_voxel_size(name):
    chi, mask, field = phantom(b0_dir=OBLIQUE)
    right = error(METHODS[name](field, mask, VOXEL, OBLIQUE), chi, mask)
    assert right < 0.8 * error(METHODS[name](field, mask, VOXEL, (0, 0, 1)), chi, mask)
    assert right < 0.95 * error(METHODS[name](field, mask, (1.4, 1.1, 1.0), OBLIQUE), chi, mask)


@pytest.mark.parametrize("name", METHODS)
def test_does_not_shift_a_map_on_a_larger_grid(name):
    _, mask, field = phantom()
    wide = [np.pad(x, ((3, 0), (0, 5), (2, 1))) for x in (field, mask)]
    found = METHODS[name](*wide, VOXEL)[3:, :-5, 2:-1]
    np.testing.assert_allclose(found, METHODS[name](field, mask, VOXEL), atol=1e-6)


def test_tv_is_the_best_with_noise():
    chi, mask, field = phantom()
    field = field + 0.003 * np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32)
    errors = {
        name: error(invert(field, mask, VOXEL), chi, mask) for name, invert in METHODS.items()
    }
    assert max(errors["tv_admm"], errors["tv_nonlinear"]) < 0.6 * min(
        errors[name] for name in ("tkd", "closed_form_l2", "tikhonov", "ndi")
    )


def test_linear_and_nonlinear_tv_agree_on_small_phases():
    _, mask, field = phantom()
    linear = inversion.tv_admm(field, mask, VOXEL)
    nonlinear = inversion.tv_admm(field, mask, VOXEL, nonlinear=True, phase_scale=0.5)
    np.testing.assert_allclose(nonlinear, linear, atol=1e-4)


def test_nonlinear_tv_does_not_see_whole_turns():
    chi, mask, field = phantom()
    wrapped = field + np.float32(2 * np.pi / 20) * ball(SHAPE, (15, 22, 16), 2, VOXEL)
    nonlinear = inversion.tv_admm(wrapped, mask, VOXEL, nonlinear=True, phase_scale=20.0)
    linear = inversion.tv_admm(wrapped, mask, VOXEL)
    assert error(nonlinear, chi, mask) < 0.7 * error(linear, chi, mask)


def test_closed_form_solves_its_normal_equations(monkeypatch):
    # Without the mask at the end, the answer is the whole solution.
    monkeypatch.setattr(inversion.Problem, "paste", lambda self, x: x)
    _, mask, field = phantom()
    problem = inversion.Problem(field, mask, VOXEL, (0, 0, 1))
    kernel = dipole_kernel(problem.shape, VOXEL, real=False)
    chi = inversion.closed_form_l2(field, mask, VOXEL, weight=0.02).astype(np.float64)

    def dipole(x):
        return np.fft.ifftn(np.fft.fftn(x) * kernel).real

    rough = inversion.L2_FLOOR * chi
    for axis, h in enumerate(inversion.relative_steps(VOXEL)):
        step = (np.roll(chi, -1, axis) - chi) / h
        rough += (np.roll(step, 1, axis) - step) / h
    left = dipole(dipole(chi)) + 0.02 * rough
    np.testing.assert_allclose(left, dipole(problem.field), atol=1e-6)


def test_tv_differences_and_their_adjoint():
    _, mask, field = phantom()
    problem = inversion.Problem(field, mask, VOXEL, (0, 0, 1))
    chi = np.random.default_rng(0).standard_normal(problem.shape).astype(np.float32)
    step = inversion._VariationStep(problem, VOXEL, 1.0)
    step.limits = [(np.zeros(problem.shape, np.float32),) * 2] * 3
    # The first step is then GᵀG, over-relaxed, which `laplacian` diagonalises.
    expected = inversion.RELAXATION * problem.ifft(problem.fft(chi) * problem.laplacian(VOXEL))
    np.testing.assert_allclose(step(chi), expected, atol=1e-4)


@pytest.mark.parametrize("nonlinear", [False, True])
def test_tv_is_the_same_in_slabs_of_any_size(monkeypatch, nonlinear):
    chi, mask, field = phantom()
    options = {"weight": 1e-3, "iterations": 4, "guide": chi, "nonlinear": nonlinear}
    maps = []
    for size in (1, 5 * field[0].nbytes, 2**40):
        monkeypatch.setattr(backend, "SLAB_BYTES", size)
        maps.append(inversion.tv_admm(field, mask, VOXEL, **options))
    np.testing.assert_array_equal(maps[0], maps[1])
    np.testing.assert_array_equal(maps[0], maps[2])


def test_over_relaxation_halves_the_iterations(monkeypatch):
    _, mask, field = phantom()
    geometry = (field, mask, VOXEL)
    best = inversion.tv_admm(*geometry, weight=1e-3, iterations=400)
    relaxed = inversion.tv_admm(*geometry, weight=1e-3, iterations=20)
    monkeypatch.setattr(inversion, "RELAXATION", 1.0)
    plain = inversion.tv_admm(*geometry, weight=1e-3, iterations=20)
    assert np.linalg.norm(relaxed - best) < 0.7 * np.linalg.norm(plain - best)


def test_tv_goes_on_from_the_splits_of_an_earlier_call():
    _, mask, field = phantom()
    splits = {}
    begun = inversion.tv_admm(field, mask, VOXEL, weight=1e-3, iterations=7, splits=splits)
    kept = {name: x.copy() for name, x in splits.items()}
    found = inversion.tv_admm(field, mask, VOXEL, weight=1e-3, iterations=5, splits=splits)
    expected = inversion.tv_admm(field, mask, VOXEL, weight=1e-3, iterations=12)
    assert np.abs(begun - expected).max() > 1e-3
    np.testing.assert_allclose(found, expected, atol=1e-6)
    again = inversion.tv_admm(field, mask, VOXEL, weight=1e-3, iterations=5, splits=kept)
    np.testing.assert_array_equal(again, found)
    # Another guide, another minimum: what was known spares iterations.
    guide = found * (np.arange(mask.shape[0]) > mask.shape[0] / 2)[:, None, None]
    options = {"weight": 2e-3, "guide": guide}
    best = inversion.tv_admm(field, mask, VOXEL, **options, iterations=400)
    anew = inversion.tv_admm(field, mask, VOXEL, **options, iterations=6)
    gone_on = inversion.tv_admm(field, mask, VOXEL, **options, iterations=6, splits=splits)
    assert np.linalg.norm(gone_on - best) < 0.7 * np.linalg.norm(anew - best)
    with pytest.raises(ValueError, match=r"splits .*: expected those of this mask"):
        inversion.tv_admm(field, mask * (np.arange(mask.shape[2]) > 12), VOXEL, splits=splits)


def objective(chi, problem, weight):
    misfit = problem.ifft(problem.fft(chi) * problem.kernel) - problem.field
    edges = sum(
        np.abs(np.roll(chi, -1, axis) - chi).sum() / h
        for axis, h in enumerate(inversion.relative_steps(VOXEL))
    )
    return 0.5 * ((misfit * problem.mask) ** 2).sum() + weight * edges


def test_tv_goes_to_the_minimum_of_its_objective(monkeypatch):
    _, mask, field = phantom()
    problem = inversion.Problem(field, mask, VOXEL, (0, 0, 1))
    monkeypatch.setattr(inversion.Problem, "paste", lambda self, x: x)
    weight = 1e-3
    found = [
        objective(
            inversion.tv_admm(field, mask, VOXEL, weight=weight, iterations=n), problem, weight
        )
        for n in (40, 400)
    ]
    assert found[1] < found[0] < 1.2 * found[1]
    best = inversion.tv_admm(field, mask, VOXEL, weight=weight, iterations=400)
    rng = np.random.default_rng(0)
    for scale in (1e-3, 1e-2):
        other = best + scale * gaussian_filter(rng.standard_normal(best.shape), 2).astype(
            np.float32
        )
        assert objective(other, problem, weight) > found[1]


@pytest.mark.parametrize("b0_dir", [(0, 0, 1), OBLIQUE], ids=["straight", "oblique"])
def test_tv_with_a_guide_takes_its_edges(b0_dir):
    """Edges of the guide lower the error, even where its values are those of the opposite map."""
    chi, mask, field = phantom(b0_dir=b0_dir)
    noise = np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32)
    geometry = (field + 0.004 * noise * mask, mask, VOXEL, b0_dir)
    plain = error(inversion.tv_admm(*geometry, 1e-3, iterations=200), chi, mask)
    for guide in (chi, -chi):
        guided = inversion.tv_admm(*geometry, 4e-3, iterations=200, guide=guide)
        assert error(guided, chi, mask) < 0.7 * plain


def test_tv_with_a_flat_guide_is_plain_tv():
    _, mask, field = phantom()
    # Sloped alike along all axes in millimetres: one weight everywhere, 1/(1 + 1).
    slope = sum(h * x for h, x in zip(VOXEL, np.indices(SHAPE), strict=True)).astype(np.float32)
    for guide, weight in ((np.zeros(SHAPE, np.float32), 1.0), (1e-3 * slope, 0.5)):
        found = inversion.tv_admm(field, mask, VOXEL, weight=1e-3, guide=guide, iterations=300)
        plain = inversion.tv_admm(field, mask, VOXEL, weight=weight * 1e-3, iterations=300)
        inner = ball(SHAPE, (np.array(SHAPE) - 1) / 2, 13, VOXEL)
        np.testing.assert_allclose(found[inner], plain[inner], atol=3e-3)


def test_pull_draws_the_map_to_the_prior():
    chi, mask, field = phantom()
    prior = (0.5 * chi).astype(np.float32)
    held = inversion.tv_admm(field, mask, VOXEL, prior=prior, pull=1e3)
    np.testing.assert_allclose(held, prior, atol=2e-3)
    free = inversion.tv_admm(field, mask, VOXEL, prior=chi, pull=0.0, iterations=300)
    np.testing.assert_allclose(
        free, inversion.tv_admm(field, mask, VOXEL, iterations=300), atol=5e-3
    )


def test_magnitude_counts_and_its_scale_does_not():
    chi, mask, field = phantom()
    noisy = field.copy()
    half = np.arange(SHAPE[0])[:, None, None] < 18
    noisy += 0.05 * half * np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32)
    magnitude = np.where(half, 0.02, 1.0).astype(np.float32) * np.ones(SHAPE, np.float32)
    for invert in (inversion.tv_admm, inversion.ndi):
        weighted = invert(noisy, mask, VOXEL, magnitude=magnitude)
        assert error(weighted, chi, mask) < error(invert(noisy, mask, VOXEL), chi, mask)
        scaled = invert(noisy, mask, VOXEL, magnitude=700 * magnitude)
        np.testing.assert_allclose(scaled, weighted, atol=1e-5)


@pytest.mark.parametrize("b0_dir", [(0, 0, 1), OBLIQUE], ids=["straight", "oblique"])
def test_wiener_follows_the_noise(b0_dir):
    """At every noise within 15 % of the best fixed weight, which no fixed weight is."""
    head = make_head((61, 66, 58), (2.6, 2.6, 2.8), np.random.default_rng(3))
    chi, mask, voxel = head["chi"], head["mask"], (2.6, 2.6, 2.8)
    field = forward_field(chi, voxel, b0_dir) * mask
    noise = mask * np.random.default_rng(0).standard_normal(mask.shape).astype(np.float32)
    weights, best = (0.003, 0.03, 0.3), []
    for sigma in (0.0, 0.004, 0.03):
        noisy = field + sigma * noise
        found = error(inversion.wiener(noisy, mask, voxel, b0_dir), chi, mask)
        fixed = [error(inversion.tikhonov(noisy, mask, voxel, b0_dir, w), chi, mask)
                 for w in weights]  # fmt: skip
        assert found < 1.15 * min(fixed)
        best.append(fixed)
    for one in zip(*best, strict=True):
        assert any(e > 1.15 * min(fixed) for e, fixed in zip(one, best, strict=True))


def test_wiener_departs_from_a_prior_only_for_what_it_leaves_unexplained():
    chi, mask, _ = phantom(b0_dir=OBLIQUE)
    geometry = (field_inside(chi, mask, VOXEL, OBLIQUE), mask, VOXEL, OBLIQUE)
    kept = inversion.wiener(*geometry, prior=chi)
    np.testing.assert_allclose(kept, chi, atol=1e-4)
    half = inversion.wiener(*geometry, prior=0.5 * chi)
    assert error(half, chi, mask) < 0.9 * error(inversion.wiener(*geometry), chi, mask)
    held = inversion.wiener(*geometry, prior=0.5 * chi, prior_error=1e-9)
    np.testing.assert_allclose(held, 0.5 * chi, atol=1e-4)
    with pytest.raises(ValueError, match="prior_error 0"):
        inversion.wiener(*geometry, prior=chi, prior_error=0)


@pytest.mark.parametrize("b0_dir", [(0.0, 0.0, 1.0), (0.3, -0.2, 0.93)])
def test_wiener_trusts_the_field_more_off_the_cone(b0_dir):
    """Fibres leave errors near the cone; what is known of the rest should not be damped as much."""
    voxel = (2.0, 2.1, 2.3)
    head = make_head((80, 85, 70), voxel, np.random.default_rng(5))
    chi, mask = head["chi"], head["mask"] > 0
    field = forward_field(chi, voxel, b0_dir) * mask
    only = dict.fromkeys(ERROR_SHARES, 0.0) | {"fibres": 1.0}
    rng = np.random.default_rng(4)
    field = add_model_errors(field, chi, mask, voxel, rng, 1.0, b0_dir, only)
    found = [inversion.wiener(field, mask, voxel, b0_dir, off_cone=s) for s in (0.3, 1)]
    assert error(found[0], chi, mask) < 0.97 * error(found[1], chi, mask)


def test_wiener_of_nothing_is_nothing():
    mask = np.ones(SHAPE, bool)
    assert not inversion.wiener(np.zeros(SHAPE, np.float32), mask, VOXEL).any()


def test_invert_takes_the_weight_from_the_noise():
    chi, mask, field = phantom()
    rng = np.random.default_rng(0)
    noise = rng.standard_normal(SHAPE).astype(np.float32)
    for name in inversion.CLASSICAL:
        found = inversion.invert(name, field + 0.001 * noise, mask, VOXEL)
        assert error(found, chi, mask) < 0.8
    assert inversion.noise_weight(0.01) > 5 * inversion.noise_weight(0.003)
    with pytest.raises(ValueError, match="expected one of tkd, l2"):
        inversion.invert("magic", field, mask, VOXEL)


def test_bad_input_is_named():
    _, mask, field = phantom()
    with pytest.raises(ValueError, match="expected one 3-D shape"):
        inversion.tkd(field[1:], mask, VOXEL)
    with pytest.raises(ValueError, match="mask is empty"):
        inversion.tikhonov(field, mask & False, VOXEL)
    with pytest.raises(ValueError, match="positive number"):
        inversion.tv_admm(field, mask, VOXEL, weight=0)
    with pytest.raises(ValueError, match="expected the field's"):
        inversion.ndi(field, mask, VOXEL, magnitude=field[1:])
    with pytest.raises(ValueError, match="positive in most of the mask"):
        inversion.ndi(field, mask, VOXEL, magnitude=np.zeros_like(field))


@pytest.mark.gpu
@pytest.mark.parametrize("name", METHODS)
def test_gpu_equals_cpu(name):
    cupy = pytest.importorskip("cupy")
    _, mask, field = phantom(b0_dir=OBLIQUE)
    on_gpu = METHODS[name](cupy.asarray(field), cupy.asarray(mask), VOXEL, OBLIQUE)
    on_cpu = METHODS[name](field, mask, VOXEL, OBLIQUE)
    np.testing.assert_allclose(cupy.asnumpy(on_gpu), on_cpu, atol=1e-4)


@pytest.mark.gpu
def test_the_fastest_device_gives_the_same():
    pytest.importorskip("cupy")
    _, mask, field = phantom(b0_dir=OBLIQUE)
    found = on_fastest(inversion.tv_admm)(field, mask, VOXEL, OBLIQUE, guide=field)
    assert isinstance(found, np.ndarray)
    on_cpu = inversion.tv_admm(field, mask, VOXEL, OBLIQUE, guide=field)
    np.testing.assert_allclose(found, on_cpu, atol=1e-4)


class SmallGpu(types.SimpleNamespace):
    """Stands for CuPy on a GPU that has room for two volumes."""

    class OutOfMemoryError(Exception):
        pass

    def __init__(self):
        self.given, self.freed = 0, 0
        memory = types.SimpleNamespace(OutOfMemoryError=self.OutOfMemoryError)
        super().__init__(cuda=types.SimpleNamespace(memory=memory))

    def asarray(self, x):
        self.given += 1
        if self.given > 2:
            raise self.OutOfMemoryError
        return x

    def get_default_memory_pool(self):
        self.freed += 1
        return types.SimpleNamespace(free_all_blocks=lambda: None)

    def get_array_module(self, x):
        return np


def test_what_a_gpu_has_no_room_for_is_done_on_the_cpu(monkeypatch):
    _, mask, field = phantom()
    expected = inversion.tikhonov(field, mask, VOXEL)
    gpu = SmallGpu()
    monkeypatch.setattr(backend, "gpu_available", lambda: True)
    monkeypatch.setattr(backend, "cupy", gpu)
    tikhonov = on_fastest(inversion.tikhonov)
    np.testing.assert_array_equal(tikhonov(field, mask, VOXEL), expected)
    assert not gpu.freed
    np.testing.assert_array_equal(tikhonov(field, mask, VOXEL), expected)
    assert gpu.freed == 1


@pytest.mark.skipif(gpu_available(), reason="there is a GPU")
def test_without_a_gpu_the_fastest_is_the_function_itself():
    assert on_fastest(inversion.tkd) is inversion.tkd
