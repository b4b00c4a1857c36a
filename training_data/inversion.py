"""Classical dipole inversions: field → χ without training, to compare with and to start from.

All take a local field (X, Y, Z) [ppm], a mask of the same grid, the voxel size [mm] and the
direction of B0 in voxel axes, as NumPy or as CuPy arrays, and return χ (X, Y, Z) float32 [ppm] on
the same grid, zero outside the mask. The work is done on the mask's box plus a margin of zeros, in
float32 with real FFTs.
"""

import numpy as np

from training_data.backend import array_module, fft_module, over_slabs, to_host
from training_data.dipole import dipole_kernel, field_inside, gradient, near_cone
from training_data.noise import WHITE_SHELLS, error_and_signal, estimate_noise
from training_data.volume import bounding_box, crop_pad, next_fast_shape, uncrop

# Zeros between the brain and its periodic image, in voxels in all. TV scores the same to 0.3 points
# of NRMSE from 0 to 80 of them.
MARGIN = 16
# Added to |G|² in the closed form: where the magic-angle cone meets the lowest frequencies D and G
# both vanish, and on an unlucky grid (FANSI phantom, margin 24) one such frequency took the error
# from 44 to 55 %. The value lets structures shorter than 36 voxels pass unchanged.
L2_FLOOR = 0.03
# Phase of one ppm of field at 3 T and an echo time of 25 ms [rad].
PHASE_SCALE = 20.0
# Penalty of the split D∗χ, relative to the data weight of a median voxel: one, as in FANSI.
DATA_PENALTY = 1.0
# Penalty of the split ∇χ over the weight of the total variation [1/ppm]: soft threshold 1/100 ppm,
# the fastest of 20, 50, 100 and 300 on the COSMOS and FANSI heads.
EDGE_PENALTY = 100.0
TINY_EDGE = 1e-9  # [ppm]
# Over-relaxation of both splits (Eckstein and Bertsekas 1992, doi:10.1007/BF01581204): 15 and 25
# iterations have the error of 25 and 40 without it, in NRMSE and in XSIM.
RELAXATION = 1.7
# What it goes on from where another call ended: volumes of the work grid.
SPLITS = ("chi", "split", "dual", "along x", "along y", "along z")
# Weights over the noise [ppm] to the power 1.5; see `noise_weight`.
TV_PER_NOISE = 0.7
L2_PER_NOISE = 42.0
# Share of the estimated noise-to-signal ratio; model errors are strongest near the cone.
WIENER_SHARE = 0.7
# Power of structured errors far from the cone over that on it, and how far in D "near" reaches.
OFF_CONE, CONE_WIDTH = 0.3, 0.15
TINY = 1e-6
CLASSICAL = ("tkd", "l2", "wiener", "ndi", "tv", "tv_nonlinear")


class Problem:
    """A field cut to its mask's box, with the dipole kernel and FFTs of that grid.

    Attributes:
        field: masked field on the work grid, float32 [ppm].
        mask: mask on the work grid, bool.
        kernel: dipole kernel on the `rfftn` half grid.

    Raises:
        ValueError: field and mask of different shapes, or an empty mask.
    """

    def __init__(self, field, mask, voxel_size, b0_dir, margin: int = MARGIN):
        if field.shape != mask.shape or field.ndim != 3:
            raise ValueError(f"field {field.shape} and mask {mask.shape}: expected one 3-D shape")
        self.xp = array_module(field)
        self.full_shape = field.shape
        self._mask = mask > 0
        self.box = bounding_box(self._mask)
        self.shape = next_fast_shape([s.stop - s.start + margin for s in self.box])
        self.mask = self.cut(self._mask)
        self.field = self.cut(field * self._mask)
        self.kernel = dipole_kernel(self.shape, voxel_size, b0_dir, self.xp)
        fft = fft_module(field)
        self.fft = fft.rfftn
        self._irfftn = fft.irfftn

    def ifft(self, spectrum):
        """Real volume of a half spectrum; the spectrum's memory may be used."""
        return self._irfftn(spectrum, s=self.shape)

    def cut(self, x):
        """A volume of the caller's grid on the work grid; float32 unless bool."""
        x = crop_pad(x, self.box, self.shape)
        return x if x.dtype == bool else x.astype(self.xp.float32, copy=False)

    def paste(self, x):
        """A volume of the work grid on the caller's grid, masked, float32."""
        return uncrop(x, self.box, self.full_shape).astype(self.xp.float32, copy=False) * self._mask

    def weights(self, magnitude):
        """Data weights on the work grid: the mask, or the magnitude over its median in the mask.

        The noise of a field is inversely proportional to the magnitude, so that a weight of one
        stands for the noise of the median voxel whatever the scanner's scale.

        Raises:
            ValueError: a magnitude of another shape, negative, or zero in most of the mask.
        """
        xp = self.xp
        if magnitude is None:
            return self.mask.astype(xp.float32)
        if magnitude.shape != self.full_shape:
            raise ValueError(f"magnitude {magnitude.shape}: expected the field's {self.full_shape}")
        inside = magnitude[self._mask]
        median = float(xp.median(inside))
        if not np.isfinite(median) or median <= 0 or float(inside.min()) < 0:
            raise ValueError(
                "magnitude: expected values >= 0 that are positive in most of the mask"
            )
        return self.cut(magnitude / median * self._mask)

    def laplacian(self, voxel_size):
        """Σ |G_i(k)|² of the periodic forward differences, on the half grid; see `steps`."""
        total = self.xp.zeros(self.kernel.shape, self.xp.float32)
        for axis, (n, h) in enumerate(zip(self.shape, relative_steps(voxel_size), strict=True)):
            wave = 2 - 2 * np.cos(2 * np.pi * np.arange(self.kernel.shape[axis]) / n)
            along = [-1 if i == axis else 1 for i in range(3)]
            total += self.xp.asarray(wave / h**2, self.xp.float32).reshape(along)
        return total


def relative_steps(voxel_size) -> np.ndarray:
    """Voxel edges over their geometric mean, so that weights do not depend on the voxel's size."""
    edges = np.asarray(voxel_size, float)
    return edges / np.prod(edges) ** (1 / 3)


def tkd(field, mask, voxel_size, b0_dir=(0, 0, 1), threshold: float = 0.2):
    """Thresholded k-space division: 1/D, and sign(D)/threshold where |D| is below the threshold.

    Shmueli et al. 2009, doi:10.1002/mrm.22135.
    """
    p = Problem(field, mask, voxel_size, b0_dir)
    xp = p.xp
    inverse = xp.sign(p.kernel) / xp.maximum(xp.abs(p.kernel), xp.float32(threshold))
    return p.paste(p.ifft(p.fft(p.field) * inverse))


def closed_form_l2(field, mask, voxel_size, b0_dir=(0, 0, 1), weight: float = 0.01):
    """Gradient-regularised least squares: argmin ½‖D∗χ − field‖² + ½·weight·‖∇χ‖².

    One multiplication in k-space by D/(D² + weight·|G|²), with a floor under |G|².
    Bilgic et al. 2014, doi:10.1002/jmri.24365.
    """
    p = Problem(field, mask, voxel_size, b0_dir)
    denominator = p.laplacian(voxel_size)
    denominator += L2_FLOOR
    denominator *= weight
    denominator += p.kernel**2
    return p.paste(p.ifft(p.fft(p.field) * (p.kernel / denominator)))


def tikhonov(field, mask, voxel_size, b0_dir=(0, 0, 1), weight: float = 0.01):
    """Least squares with a small norm: D/(D² + weight) in k-space.

    Kressler et al. 2010, doi:10.1109/TMI.2009.2023787.
    """
    p = Problem(field, mask, voxel_size, b0_dir)
    return p.paste(p.ifft(p.fft(p.field) * (p.kernel / (p.kernel**2 + p.xp.float32(weight)))))


def wiener(
    field, mask, voxel_size, b0_dir=(0, 0, 1), *, prior=None, prior_error=1.0, off_cone=OFF_CONE
):
    """Wiener inverse: D/(D² + r(k)), r the power of the errors over that of χ, read off the scan.

    r comes from the field alone (`error_and_signal`), so that white noise damps the high
    frequencies and errors of the model the low ones. It is measured on the cone of the kernel.
    White noise is the same off it; errors of the model, the tensor's off-diagonal elements first of
    all, are weaker there. Without an estimate of r: `tikhonov` of 0.03.

    Args:
        prior: χ (X, Y, Z) [ppm] that the result departs from, for what it does not explain of the
            field: prior + D/(D² + r/prior_error)·(field − D∗prior).
        prior_error: power of the prior's error over that of χ, 0 to 1.
        off_cone: power of the structured errors far from the cone over that on it; 1: r depends on
            |k| only.

    Raises:
        ValueError: shapes that differ, an empty mask, or a prior_error that is not positive.
    """
    if not prior_error > 0:
        raise ValueError(f"prior_error {prior_error}: expected a positive number")
    k, errors, signal = error_and_signal(field, mask, voxel_size, b0_dir)
    if prior is not None:
        field = field - field_inside(prior, mask, voxel_size, b0_dir)
    p = Problem(field, mask, voxel_size, b0_dir)
    r = 0.03
    if len(k) and off_cone == 1:
        r = _over_shells(p, voxel_size, k, WIENER_SHARE * errors / signal)
    elif len(k):
        # Parts are interpolated one by one: between the last shell with structured errors and the
        # white ones less is damped than by the form above (measured field 56.9, else 57.5). The
        # networks in this repository were trained with both forms as they are.
        white = errors[-WHITE_SHELLS:].mean()
        structured = np.maximum(errors - white, TINY * white) / signal
        near = off_cone + (1 - off_cone) * near_cone(p.kernel, CONE_WIDTH)
        r = _over_shells(p, voxel_size, k, WIENER_SHARE * structured) * near
        r += _over_shells(p, voxel_size, k, WIENER_SHARE * white / signal)
    weight = (r / prior_error * p.xp.ones(1)).astype(p.xp.float32)
    found = p.paste(p.ifft(p.fft(p.field) * (p.kernel / (p.kernel**2 + weight))))
    return found if prior is None else found + prior * p.xp.asarray(mask > 0, p.xp.float32)


def _over_shells(p, voxel_size, k, values):
    """Values (n,) of shells around k (n,) [1/mm], interpolated in both logarithms to p's grid."""
    edges = zip(p.shape, voxel_size, strict=True)
    axes = [np.fft.fftfreq(n, v).astype(np.float32) for n, v in edges]
    axes[2] = axes[2][: p.kernel.shape[2]]
    squares = np.meshgrid(*(a**2 for a in axes), indexing="ij", sparse=True)
    height = np.log(np.maximum(sum(squares), 1e-12)) / 2
    return p.xp.asarray(np.exp(np.interp(height, np.log(k), np.log(values))))


def ndi(
    field,
    mask,
    voxel_size,
    b0_dir=(0, 0, 1),
    *,
    magnitude=None,
    iterations: int = 25,
    phase_scale: float = PHASE_SCALE,
):
    """Nonlinear dipole inversion: gradient descent on ½‖W·(e^{jD∗χ} − e^{j·field})‖².

    Polak et al. 2020, doi:10.1002/nbm.4271. Stopping early is the regularisation.

    Args:
        magnitude: (X, Y, Z), any scale; W is the mask without it.
        phase_scale: phase of one ppm of field [rad], 2π·γ·B0·TE. The descent from
            zero never reaches a phase beyond π: keep the scale below π over the largest field.
    """
    p = Problem(field, mask, voxel_size, b0_dir)
    xp = p.xp
    # |D| is at most 2/3, so that a step of 2 is stable for W² < 9/4: a bright voxel counts no more.
    weights = xp.minimum(p.weights(magnitude) ** 2, xp.float32(2))
    weights *= 2 / phase_scale
    chi_k = xp.zeros(p.kernel.shape, xp.complex64)
    for _ in range(iterations):
        misfit = p.ifft(chi_k * p.kernel)
        misfit -= p.field
        misfit *= phase_scale
        xp.sin(misfit, out=misfit)
        misfit *= weights
        step = p.fft(misfit)
        step *= p.kernel
        chi_k -= step
    return p.paste(p.ifft(chi_k))


def tv_admm(
    field,
    mask,
    voxel_size,
    b0_dir=(0, 0, 1),
    weight: float = 2e-4,
    *,
    magnitude=None,
    nonlinear: bool = False,
    iterations: int = 25,
    phase_scale: float = PHASE_SCALE,
    prior=None,
    pull: float = 0.0,
    guide=None,
    splits: dict | None = None,
):
    """Total variation: argmin ½‖W·(D∗χ − field)‖² + weight·Σ w|∇χ| + ½·pull·‖χ − prior‖².

    Alternating direction method of multipliers with both D∗χ and ∇χ split off, so that every step
    is a division in k-space, a division voxel by voxel or a soft threshold.
    Linear: Bilgic et al. 2014, doi:10.1002/mrm.25029. Nonlinear, with the data term
    ‖W·(e^{jD∗χ} − e^{j·field})‖²: Milovic et al. 2018 (FANSI), doi:10.1002/mrm.27073.

    Args:
        weight: of the total variation [ppm]; grows with the noise of the field.
        magnitude: (X, Y, Z), any scale; W is the mask without it.
        nonlinear: compare phases instead of fields; the same weight fits both.
        phase_scale: phase of one ppm of field [rad], 2π·γ·B0·TE, for the nonlinear term.
        prior: χ (X, Y, Z) [ppm] that the result starts from and is pulled to.
        guide: χ (X, Y, Z) [ppm] that is known to some degree. Edges cost less where it has them:
            w = 1/(1 + |∇guide|/median|∇guide|), as when an L1 problem is solved again with weights
            from its first answer (Candès et al. 2008, doi:10.1007/s00041-008-9045-x). None: w = 1.
        splits: empty, or χ, splits and dual variables where an earlier call with this mask ended,
            for this one to go on from; replaced by those where this one ends. None: kept nowhere.

    Raises:
        ValueError: shapes that differ, an empty mask, a weight that is not positive, or splits of
            another mask.
    """
    if not weight > 0:
        raise ValueError(f"weight {weight}: expected a positive number")
    p = Problem(field, mask, voxel_size, b0_dir)
    data = _DataStep(p, magnitude, phase_scale if nonlinear else None)
    variation = _VariationStep(p, voxel_size, weight, guide)
    inverse = _ChiStep(p, variation.penalty, p.laplacian(voxel_size), prior, float(pull))
    if splits:
        inverse.begin(_go_on(splits, data, variation))
    chi = inverse.chi()
    for _ in range(iterations):
        edges_k = p.fft(variation(chi))
        data_k = p.fft(data(inverse.predicted()))
        inverse(data_k, edges_k)
        chi = inverse.chi()
    if splits is not None:
        ended = (chi, data.split, data.dual, *variation.sums)
        splits |= dict(zip(SPLITS, map(to_host, ended), strict=True))
    return p.paste(chi)


def _go_on(splits: dict, data, variation):
    """Give both steps the splits where another call ended, to work on; its χ on the work grid."""
    chi, data.split, data.dual, *variation.sums = (data.xp.asarray(splits[x]) for x in SPLITS)
    if chi.shape != data.field.shape:
        raise ValueError(f"splits {chi.shape}: expected those of this mask, {data.field.shape}")
    return chi


class _ChiStep:
    """χ from both splits by a division in k-space; keeps the spectra of χ and of D∗χ."""

    def __init__(self, problem, penalty: float, laplacian, prior, pull: float):
        xp, kernel = problem.xp, problem.kernel
        self.problem = problem
        scale = pull + DATA_PENALTY * kernel**2 + penalty * laplacian
        scale[0, 0, 0] = max(float(scale[0, 0, 0]), 1e-6)
        scale = 1 / scale
        self.from_field, self.from_edges = DATA_PENALTY * kernel * scale, penalty * scale
        self.chi_k = xp.zeros(kernel.shape, xp.complex64)
        self.predicted_k = xp.zeros_like(self.chi_k)
        if prior is not None:
            self.begin(problem.cut(prior))
        self.pulled = pull * scale * self.chi_k if pull else None

    def begin(self, chi) -> None:
        """Take χ on the work grid [ppm] to start from."""
        self.chi_k = self.problem.fft(chi)
        self.predicted_k = self.chi_k * self.problem.kernel

    def chi(self):
        """χ on the work grid; its spectrum is used up until the next step."""
        return self.problem.ifft(self.chi_k)

    def predicted(self):
        """D∗χ on the work grid; its spectrum is used up until the next step."""
        return self.problem.ifft(self.predicted_k)

    def __call__(self, data_k, edges_k) -> None:
        """Spectra of χ and D∗χ anew from what both splits ask for."""
        over_slabs(lambda at: self._step(at, data_k[at], edges_k[at]), self.chi_k)

    def _step(self, at, data_k, edges_k):
        chi_k = self.chi_k[at]
        self.problem.xp.multiply(self.from_field[at], data_k, out=chi_k)
        chi_k += self.from_edges[at] * edges_k
        if self.pulled is not None:
            chi_k += self.pulled[at]
        self.problem.xp.multiply(chi_k, self.problem.kernel[at], out=self.predicted_k[at])


class _DataStep:
    """Proximal step of the data term, over-relaxed; keeps its split and its dual variable."""

    def __init__(self, problem, magnitude, phase_scale):
        xp = problem.xp
        self.xp = xp
        self.field = problem.field
        self.weights = problem.weights(magnitude) ** 2
        self.phase_scale = None if phase_scale is None else float(phase_scale)
        self.shrink = DATA_PENALTY / (self.weights + DATA_PENALTY)
        self.target = problem.field * (1 - self.shrink)
        self.dual = xp.zeros_like(self.field)
        self.split = xp.zeros_like(self.field)

    def __call__(self, predicted):
        """From D∗χ to (split − dual), which the next χ is to predict; works in place."""
        over_slabs(lambda at: self._step(at, predicted[at]), predicted)
        return predicted

    def _step(self, at, predicted):
        dual, split = self.dual[at], self.split[at]
        predicted *= RELAXATION
        dual += predicted
        split *= 1 - RELAXATION
        dual += split
        self.xp.multiply(self.shrink[at], dual, out=split)
        split += self.target[at]
        if self.phase_scale is not None:
            self._newton(at, split, dual)
        dual -= split
        self.xp.subtract(split, dual, out=predicted)

    def _newton(self, at, split, dual):
        """Two steps of Newton from the linear answer, with the curvature kept positive."""
        for _ in range(2):
            phase = (split - self.field[at]) * self.phase_scale
            slope = self.weights[at] * self.xp.sin(phase) / self.phase_scale
            slope += DATA_PENALTY * (split - dual)
            curvature = self.weights[at] * self.xp.maximum(self.xp.cos(phase), 0)
            curvature += DATA_PENALTY
            slope /= curvature
            split -= slope


class _VariationStep:
    """Soft threshold of the periodic differences of χ, over-relaxed; keeps split + dual variable.

    The dual variable is that sum cut to ± the threshold.
    """

    def __init__(self, problem, voxel_size, weight, guide=None):
        xp = problem.xp
        self.xp = xp
        self.steps = [float(step) for step in relative_steps(voxel_size)]
        self.penalty = EDGE_PENALTY * float(weight)
        thresholds = [xp.full(problem.shape, 1 / EDGE_PENALTY, xp.float32)]
        if guide is not None:
            edges = xp.abs(gradient(problem.cut(guide), self.steps))
            inside = edges[:, problem.mask]
            typical = max(float(xp.median(inside)), 0.1 * float(inside.mean()), TINY_EDGE)
            thresholds = list(1 / EDGE_PENALTY / (1 + edges / xp.float32(typical)))
        # Both limits of the dual variable, once for each axis or once for all.
        self.limits = [(-x, x) for x in thresholds] * (3 // len(thresholds))
        self.sums = [xp.zeros(problem.shape, xp.float32) for _ in range(3)]

    def __call__(self, chi):
        """Σ Gᵀ(split − dual) of the differences of χ."""
        total = self.xp.zeros_like(chi)
        over_slabs(lambda at: self._update(at, chi), chi)
        over_slabs(lambda at: self._gather(at, total[at]), chi)
        return total

    def _dual(self, axis, at):
        """Dual variable of an axis in planes of the first axis."""
        return self.xp.clip(self.sums[axis][at], *(limit[at] for limit in self.limits[axis]))

    def _update(self, at, chi):
        """sum ← r·(G χ + dual) + (1 − r)·sum in planes of the first axis."""
        for axis, step in enumerate(self.steps):
            x = self.xp.moveaxis(chi[at], axis, 0)
            after = x[0] if axis else chi[at.stop % len(chi)]
            new = self.xp.empty_like(chi[at])
            edge = self.xp.moveaxis(new, axis, 0)
            self.xp.subtract(x[1:], x[:-1], out=edge[:-1])
            self.xp.subtract(after, x[-1], out=edge[-1])
            _divide(new, step)
            new += self._dual(axis, at)
            new *= RELAXATION
            sums = self.sums[axis][at]
            sums *= 1 - RELAXATION
            sums += new

    def _edges(self, axis, at):
        """(split − dual)/step of an axis in planes of the first axis, `axis` moved to the front."""
        edges = self._dual(axis, at)
        edges *= -2
        edges += self.sums[axis][at]
        _divide(edges, self.steps[axis])
        return self.xp.moveaxis(edges, axis, 0)

    def _gather(self, at, total):
        """Add Gᵀ of the edges of all axes to planes `at` of the total."""
        for axis in range(3):
            edges = self._edges(axis, at)
            last = (at.start - 1) % len(self.sums[axis])
            before = edges[-1] if axis else self._edges(0, slice(last, last + 1))[0]
            out = self.xp.moveaxis(total, axis, 0)
            out -= edges
            out[1:] += edges[:-1]
            out[0] += before


def _divide(x, step: float) -> None:
    """Divide by a relative voxel edge in place; those of cubes are one, and pass untouched."""
    if abs(step - 1) > TINY:
        x *= 1 / step


def invert(name: str, field, mask, voxel_size, b0_dir=(0, 0, 1), magnitude=None):
    """χ by a classical inversion of that name, its weight taken from the noise of the field.

    The same rule for every scan, without ground truth: TKD and NDI as published, closed-form L2
    and total variation with a weight that follows `estimate_noise`, Wiener by its spectrum.

    Raises:
        ValueError: unknown name; a field, mask or magnitude that the method cannot use.
    """
    if name not in CLASSICAL:
        raise ValueError(f"inversion {name!r}: expected one of {', '.join(CLASSICAL)}")
    geometry = (field, mask, voxel_size, b0_dir)
    if name == "tkd":
        return tkd(*geometry)
    if name == "wiener":
        return wiener(*geometry)
    if name == "ndi":
        return ndi(*geometry, magnitude=magnitude)
    noise = estimate_noise(*geometry)
    if name == "l2":
        return closed_form_l2(*geometry, noise_weight(noise, L2_PER_NOISE))
    weight = noise_weight(noise, TV_PER_NOISE)
    return tv_admm(*geometry, weight, magnitude=magnitude, nonlinear=name == "tv_nonlinear")


def noise_weight(noise: float, factor: float = TV_PER_NOISE) -> float:
    """Weight of a regularisation for a field with so much noise [ppm] (`estimate_noise`).

    factor·noise^1.5, the power law through the weights of least error on the COSMOS and FANSI heads
    at noises of 0.001, 0.003 and 0.010 ppm and on the measured 2016 field: errors at most 8 % above
    the best one's (TV), 11 % (L2). The factor is TV_PER_NOISE or L2_PER_NOISE.
    """
    return factor * max(noise, 1e-5) ** 1.5
