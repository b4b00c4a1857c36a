"""What a measured local field has that a simulated one lacks, and how much of it a scan has.

Errors are drawn in ppm on the field's grid. White noise follows the magnitude (its standard
deviation is 1/magnitude: the phase noise of a complex signal, Gudbjartsson & Patz 1995,
doi:10.1002/mrm.1910340618). Structured errors are those of a scalar dipole model: microstructure
shifts that stay local (He & Yablonskiy 2009, doi:10.1073/pnas.0904899106), the susceptibility
tensor's part along B0 that differs from its mean and its off-diagonal elements (Liu 2010,
doi:10.1002/mrm.22482), and residual background field, which is harmonic inside the brain.
"""

import hashlib

import numpy as np
from scipy import ndimage

from training_data.backend import fft_module, to_host
from training_data.background import harmonics
from training_data.dipole import convolve, dipole_kernel, forward_field, near_cone
from training_data.volume import bounding_box, crop_pad, next_fast_shape, uncrop

CONE = 0.06  # |D| below this: the dipole passes next to nothing, what is measured there is error
# Shells of |k| of `error_and_signal`, from this frequency [1/mm] to the shortest edge's highest.
LOWEST_SHELL = 0.02
SHELLS = 12
LOW = 0.08  # what counts as low |k| [1/mm]
WHITE_SHELLS = 2  # the highest ones, taken for white noise
LEAST_SIGNAL = 0.02  # share of a shell's power that is taken for signal in any case
# A shell of few frequencies on the cone has the share of errors of the next higher one as if that
# had been seen so many times more. The lowest shells have 2 to 40, and what four of them hold by
# chance took the Wiener inverse of the measured field of 2016 from 56.8 to 59.5.
FEW = 100
# Of `local_noise`: width of the cone in D, lowest |k| over that of the longest edge, and window.
LOCAL_CONE, LOCAL_FROM, LOCAL_MM = 0.05, 0.3, 2.0
KEPT_SPECTRA = 4
_spectra: dict[tuple, tuple[float, np.ndarray]] = {}  # of the last fields, see `_spectrum`
# Largest weight of each kind of structured error; all have one standard deviation before.
ERROR_SHARES = {
    "local": 1.0, "tensor": 1.0, "background": 0.5, "coloured": 0.7, "apparent": 0.7, "fibres": 0.0,
}  # fmt: skip


def add_complex_noise(field, mask, magnitude, sigma_ppm: float, rng):
    """Add the phase noise of a complex signal to a field.

    Args:
        field: (X, Y, Z) [ppm].
        mask: (X, Y, Z) bool.
        magnitude: (X, Y, Z), any unit, or None for a uniform one.
        sigma_ppm: median of the noise's standard deviation inside the mask [ppm].
        rng: numpy Generator.

    Returns:
        (X, Y, Z) float32 [ppm], zero outside the mask. The complex signal is magnitude·e^{jφ} with
        Gaussian noise in both parts; φ is the field scaled so that no voxel of the mask wraps.
    """
    weight = np.ones(field.shape, np.float32) if magnitude is None else np.asarray(magnitude)
    inside = np.maximum(weight[mask], 0.05 * np.median(weight[mask])).astype(np.float32)
    if sigma_ppm == 0:
        return np.where(mask, field, 0).astype(np.float32)
    inside /= np.median(inside)
    limit = np.abs(field[mask]).max() + 6 * sigma_ppm
    radians = min(np.pi / limit, 0.1 / sigma_ppm)  # median SNR of at least 10: noise stays Gaussian
    noise = rng.standard_normal((2, inside.size), np.float32) * (sigma_ppm * radians)
    out = np.zeros(field.shape, np.float32)
    out[mask] = field[mask] + np.arctan2(noise[1], inside + noise[0]) / radians
    return out


def add_course(field, mask, voxel_size, rms: float, rng):
    """Add a slow course, as background removal leaves it: harmonics up to the second order.

    Args:
        field: (X, Y, Z) [ppm]; mask: (X, Y, Z) bool; voxel_size: 3 floats [mm].
        rms: root mean square of the course in the mask [ppm].
        rng: numpy Generator.

    Returns:
        (X, Y, Z) float32 [ppm], zero outside the mask.
    """
    starts = [-(n - 1) * v / 2 for n, v in zip(field.shape, voxel_size, strict=True)]
    factors = rng.standard_normal(9) * rng.random(9) ** 2  # of some of them more than of others
    shapes = harmonics(field.shape, voxel_size, starts)
    course = sum(np.float32(f) * h for f, h in zip(factors, shapes, strict=True))
    course *= np.float32(rms / max(float(np.sqrt(np.mean(course[mask] ** 2))), 1e-9))
    return np.where(mask, field + course, 0).astype(np.float32)


def add_model_errors(
    field, chi, mask, voxel_size, rng, level: float = 1.0, b0_dir=(0.0, 0.0, 1.0), shares=None
):
    """Add errors that no scalar dipole explains, at a random strength up to `level`.

    Args:
        field: (X, Y, Z) [ppm]; chi: the map that made it [ppm]; mask: (X, Y, Z) bool.
        voxel_size: 3 floats [mm]; b0_dir: direction of B0 in voxel axes.
        rng: numpy Generator.
        level: largest standard deviation of the errors over that of the field. A measured head
            against its COSMOS map shows about 0.7.
        shares: largest weights of kinds that differ from `ERROR_SHARES`, or None.

    Returns:
        (X, Y, Z) float32 [ppm], zero outside the mask.
    """
    box = bounding_box(mask)
    shape = next_fast_shape([s.stop - s.start + 16 for s in box])
    whole, spread = field.shape, float(field[mask].std())
    field, chi, mask = (crop_pad(x, box, shape) for x in (field, chi, mask))
    makers = {
        "local": lambda: _local_shift(chi, mask, rng),
        "tensor": lambda: _tensor_field(chi, mask, voxel_size, b0_dir, rng),
        "background": lambda: _background_remnant(mask, voxel_size, b0_dir, rng),
        "coloured": lambda: _colored(mask, rng),
        "apparent": lambda: _apparent_field(chi, mask, voxel_size, b0_dir, rng),
        "fibres": lambda: _fibre_field(chi, mask, voxel_size, b0_dir, rng),
    }
    shares = ERROR_SHARES | (shares or {})
    errors = {kind: make() for kind, make in makers.items() if shares[kind]}
    total = np.zeros(shape, np.float32)
    for kind, error in errors.items():
        scale = float(error[mask].std())
        if scale > 0:
            total += (shares[kind] * rng.uniform(0, 1) / scale) * np.where(mask, error, 0)
    scale = float(total[mask].std())
    if scale > 0:
        total *= level * rng.uniform(0.1, 1) * spread / scale
    return uncrop(np.where(mask, field + total, 0).astype(np.float32), box, whole)


def estimate_noise(field, mask, voxel_size, b0_dir=(0.0, 0.0, 1.0)) -> float:
    """How much of a field the dipole model cannot explain, from the field alone.

    The kernel is zero on a cone in k-space; what a windowed field holds there is noise, model error
    and a little leakage from the mask's edge. The root mean square near the cone is taken in shells
    of |k|, and the median over the shells is returned, so that neither the low frequencies, where
    leakage is strong, nor the highest decide alone.

    Args:
        field: (X, Y, Z) [ppm]; mask: (X, Y, Z) bool.
        voxel_size: 3 floats [mm]; b0_dir: direction of B0 in voxel axes.

    Returns:
        standard deviation per voxel of the white noise of equal power [ppm].
    """
    return _spectrum(field, mask, voxel_size, b0_dir)[0]


def error_and_signal(field, mask, voxel_size, b0_dir=(0.0, 0.0, 1.0), *, few=FEW):
    """Power of noise and model error, and of χ, in shells of |k|, from the field alone.

    On the cone of the kernel a field holds errors only, off it D·χ and errors. With S the power on
    the cone, A that off it and ⟨D²⟩ the kernel's mean square there, χ has the power (A − S)/⟨D²⟩.

    Args:
        field: (X, Y, Z) [ppm]; mask: (X, Y, Z) bool.
        voxel_size: 3 floats [mm]; b0_dir: direction of B0 in voxel axes.
        few: frequencies on the cone that the next higher shell counts for; 0: nothing is smoothed.

    Returns:
        centres of the shells, (n,) [1/mm], rising; power of the errors, (n,), and of χ, (n,), per
        voxel [ppm²], both positive. All are empty for a field of zeros, or a grid too small.
    """
    k, errors, total, squares, number = _spectrum(field, mask, voxel_size, b0_dir)[1]
    share = errors / total
    for i in reversed(range(len(share) - 1)):
        share[i] += few / (number[i] + few) * (share[i + 1] - share[i])
    errors = share * total
    return np.stack([k, errors, np.maximum(total - errors, LEAST_SIGNAL * total) / squares])


def structured_noise(
    field, mask, voxel_size, b0_dir=(0.0, 0.0, 1.0), *, left=None
) -> tuple[float, float]:
    """Errors of a field at low |k| beyond its white noise: size, and power over that of χ.

    White noise is weak where a brain's field is strong, at low |k|; errors of the dipole model,
    such as anisotropy and remnants of the background field, have the spectrum of the field itself.

    Args:
        field: (X, Y, Z) [ppm]; mask: (X, Y, Z) bool.
        voxel_size: 3 floats [mm]; b0_dir: direction of B0 in voxel axes.
        left: what a map leaves of the field, (X, Y, Z) [ppm]; errors are then read off it. In the
            field itself strong signal leaks onto the cone, because it is cut at the mask.

    Returns:
        standard deviation of the white noise that has so much power at low |k| [ppm]; and the
        power of the errors there over that of χ. Both 0 where there is no such shell.
    """
    geometry = (mask, voxel_size, b0_dir)
    # The median over shells needs no smoothing, and total variation leaves a share that does rise.
    k, errors, signal = error_and_signal(field, *geometry, few=0)
    if left is not None and len(k):
        k_left, errors_left, _ = error_and_signal(left, *geometry, few=0)
        errors = np.interp(k, k_left, errors_left) if len(k_left) else 0 * errors
    low = k < LOW
    if not low.any():
        return 0.0, 0.0
    excess = np.maximum(errors[low] - errors[-WHITE_SHELLS:].mean(), 0)
    return float(np.sqrt(np.median(excess))), float(np.median(excess / signal[low]))


def white_noise(field, mask, voxel_size, b0_dir=(0.0, 0.0, 1.0)) -> float:
    """White noise of a field, from its highest shells of |k| on the cone alone.

    `estimate_noise` counts structured errors and, on elongated voxels, what leaks from low |k|:
    0.0049 for 0.0008 ppm on a head at 1×1×2 mm, where this gives 0.0009.

    Args:
        field: (X, Y, Z) [ppm]; mask: (X, Y, Z) bool.
        voxel_size: 3 floats [mm]; b0_dir: direction of B0 in voxel axes.

    Returns:
        its standard deviation [ppm]; 0 for a field of zeros, or a grid too small.
    """
    errors = error_and_signal(field, mask, voxel_size, b0_dir, few=0)[1]
    return float(np.sqrt(errors[-WHITE_SHELLS:].mean())) if len(errors) else 0.0


def local_noise(field, mask, voxel_size, b0_dir=(0.0, 0.0, 1.0)) -> np.ndarray:
    """Noise of a field place by place, from the field alone.

    On the cone of the dipole kernel a field holds errors only. What it has there at high |k|, by
    the weight exp(−(D/0.05)²)·(1 − exp(−(|k|/k₀)²)), is noise that has passed a known filter; its
    root mean square around each voxel (`local_rms`) over that of the filter is the noise there.

    Args:
        field: (X, Y, Z) [ppm]; mask: (X, Y, Z) bool.
        voxel_size: 3 floats [mm]; b0_dir: direction of B0 in voxel axes.

    Returns:
        standard deviation of the noise, (X, Y, Z) float32 [ppm], zero outside the mask. Patches
        without signal have that of their noise; a source of 2 ppm leaks 0.03 of its own field.
    """
    box = bounding_box(mask)
    shape = next_fast_shape([s.stop - s.start + 8 for s in box])
    centred = np.where(mask, field - np.median(field[mask]), 0).astype(np.float32)
    centred = crop_pad(centred, box, shape)
    radius = _radius(shape, voxel_size)
    lowest = LOCAL_FROM * 0.5 / max(voxel_size)
    cone = near_cone(dipole_kernel(shape, voxel_size, b0_dir), LOCAL_CONE)
    cone *= 1 - np.exp(-((radius / lowest) ** 2))
    passed = uncrop(convolve(centred, cone.astype(np.float32)), box, mask.shape)
    return local_rms(passed, mask, voxel_size) / np.float32(max(np.sqrt((cone**2).mean()), 1e-6))


def local_rms(x, mask, voxel_size) -> np.ndarray:
    """Root mean square of x (X, Y, Z) in a Gaussian window of 2 mm inside the mask, float32."""
    sigma = [max(LOCAL_MM / v, 1.0) for v in voxel_size]
    squares, weights = (
        ndimage.gaussian_filter(y, sigma, truncate=3, mode="constant")
        for y in (np.where(mask, x, 0).astype(np.float32) ** 2, mask.astype(np.float32))
    )
    return np.sqrt(squares / np.maximum(weights, 1e-3)) * mask


def _radius(shape, voxel_size) -> np.ndarray:
    """|k| [1/mm] on a half grid."""
    k = [np.fft.fftfreq(n, v) for n, v in zip(shape, voxel_size, strict=True)]
    k[2] = np.fft.rfftfreq(shape[2], voxel_size[2])
    return np.sqrt(sum(f**2 for f in np.meshgrid(*k, indexing="ij", sparse=True)))


def _spectrum(field, mask, voxel_size, b0_dir) -> tuple[float, np.ndarray]:
    """`estimate_noise` and `error_and_signal` of a field, kept for the fields asked for last.

    A reconstruction asks ten times for those of one field, which is known by its bytes.
    """
    field, mask = to_host(field), to_host(mask).astype(bool)
    digests = (hashlib.sha256(np.ascontiguousarray(x)).digest() for x in (field, mask))
    geometry = (field.shape, field.dtype, *map(float, (*voxel_size, *b0_dir)))
    key = (*digests, *geometry)
    if key not in _spectra:
        power = _power(field, mask, voxel_size, b0_dir)
        found = _cone_noise(*power, voxel_size), _cone_shells(*power, voxel_size)
        while len(_spectra) >= KEPT_SPECTRA:
            _spectra.pop(next(iter(_spectra)), None)
        _spectra[key] = found
    return _spectra[key]


def _cone_noise(power, radius, kernel, voxel_size) -> float:
    """Median over shells of |k| of the root mean square near the cone [ppm].

    Up to the Nyquist frequency of the longest edge, but of at most twice the shortest, as in all
    training: beyond, what leaks from low |k| rules (2×2×6 mm: 0.0128 for 0.003 ppm).
    """
    near = np.abs(kernel) < CONE
    top = 0.5 / min(max(voxel_size), 2 * min(voxel_size))
    shells = np.digitize(radius[near], np.linspace(0.2 * top, top, 9))
    inside = power[near]
    rms = [np.sqrt(inside[shells == i].mean()) for i in range(1, 9) if (shells == i).any()]
    return float(np.median(rms))


def _cone_shells(power, radius, kernel, voxel_size) -> np.ndarray:
    """|k|, power on the cone and off it, ⟨D²⟩ there, number on the cone, (5, shells)."""
    edges = np.geomspace(LOWEST_SHELL, 0.5 / min(voxel_size), SHELLS + 1)
    # Shells on the cone and shells off it, each summed over in one pass.
    shell = 2 * np.digitize(radius.ravel(), edges) + (np.abs(kernel.ravel()) < CONE)
    sums = [
        np.bincount(shell, weights, 2 * (SHELLS + 2)).reshape(-1, 2)[1:-1]
        for weights in (None, power.ravel(), kernel.ravel() ** 2)
    ]
    kept = (sums[1] > 0).all(1)
    number, powers, squares = (s[kept] for s in sums)
    total, errors = (powers / number).T
    off = (squares / number)[:, 0]
    return np.stack([np.sqrt(edges[:-1] * edges[1:])[kept], errors, total, off, number[:, 1]])


def _power(field, mask, voxel_size, b0_dir):
    """Power of the windowed field per voxel [ppm²], |k| [1/mm] and the kernel, on a half grid."""
    box = bounding_box(mask)
    size = [s.stop - s.start for s in box]
    shape = next_fast_shape([n + 8 for n in size])
    inner = ndimage.binary_erosion(crop_pad(mask, box, shape), iterations=3)
    if inner.sum() < 0.1 * mask.sum():
        inner = crop_pad(mask, box, shape)
    window = ndimage.gaussian_filter(inner.astype(np.float32), 1.5, truncate=3)
    cut = crop_pad(field.astype(np.float32), box, shape)
    cut = (cut - np.average(cut, weights=window)) * window
    power = np.abs(fft_module(cut).rfftn(cut)) ** 2 / float((window**2).sum())
    return power, _radius(shape, voxel_size), dipole_kernel(shape, voxel_size, b0_dir)


def smooth_noise(shape, rng, scale: float):
    """Periodic Gaussian random field of unit variance, smoothed by a Gaussian of `scale` voxels."""
    smooth = convolve(rng.standard_normal(shape, np.float32), gaussian(shape, scale))
    return smooth / smooth.std()


def gaussian(shape, scale) -> np.ndarray:
    """Spectrum of a Gaussian, (X, Y, Z // 2 + 1) float32.

    Args:
        shape: (X, Y, Z); scale: its standard deviation [voxels], one or three.
    """
    k = [np.fft.fftfreq(n).astype(np.float32) for n in shape]
    k[2] = np.fft.rfftfreq(shape[2]).astype(np.float32)
    sigmas = np.broadcast_to(np.float32(scale), 3)
    x, y, z = (np.exp(-2 * (np.pi * s * f) ** 2) for s, f in zip(sigmas, k, strict=True))
    return x[:, None, None] * y[:, None] * z


def _local_shift(chi, mask, rng):
    """Frequency shift that stays in its voxel and follows the anatomy, but hardly χ itself.

    A wave of χ of random period and phase has χ's borders and, tissue by tissue, values of its own.
    """
    smooth = ndimage.gaussian_filter(np.where(mask, chi, 0).astype(np.float32), 0.7)
    spread = max(float(smooth[mask].std()), 1e-6)
    wave = np.sin(rng.uniform(0.5, 2.5) * smooth / spread + rng.uniform(0, 2 * np.pi))
    return wave * (1 + 0.7 * smooth_noise(mask.shape, rng, rng.uniform(6, 16)))


def _tensor_field(chi, mask, voxel_size, b0_dir, rng):
    """Field of off-diagonal tensor elements that are as large as χ itself, here and there."""

    def source():
        tissue = (chi + 0.03 * smooth_noise(mask.shape, rng, rng.uniform(1, 3))) * mask
        return tissue * smooth_noise(mask.shape, rng, rng.uniform(4, 10))

    return _off_diagonal_field(source, mask, voxel_size, b0_dir)


def _fibre_field(chi, mask, voxel_size, b0_dir, rng):
    """Field of off-diagonal tensor elements with borders and values of their own, tissue by tissue.

    Strongest near the cone, at all |k| alike: so is what a measured head leaves of D∗COSMOS.
    """

    def source():
        tissue = np.where(mask, _local_shift(chi, mask, rng), 0)
        return tissue * smooth_noise(mask.shape, rng, rng.uniform(2, 8))

    return _off_diagonal_field(source, mask, voxel_size, b0_dir)


def _off_diagonal_field(source, mask, voxel_size, b0_dir):
    """−k_z(k_x χ13 + k_y χ23)/|k|² as two tilted dipoles; `source()` draws χ13, then χ23.

    D for B0 along (sin θ, 0, cos θ) minus D for (−sin θ, 0, cos θ) is −4 sin θ cos θ·k_x k_z/|k|².
    """
    out = np.zeros(mask.shape, np.float32)
    up = np.asarray(b0_dir, float) / np.linalg.norm(b0_dir)
    first = np.cross(up, np.eye(3)[np.argmin(np.abs(up))])
    for tilt in (first, np.cross(up, first)):
        tilt = tilt / np.linalg.norm(tilt)
        element = source().astype(np.float32)
        plus = forward_field(element, voxel_size, up + tilt, pad=False)
        out += plus - forward_field(element, voxel_size, up - tilt, pad=False)
    return out


def _apparent_field(chi, mask, voxel_size, b0_dir, rng):
    """Field of what χ along B0 differs by from the mean of the tensor, fibre by fibre.

    It is a dipole field like any other, and nothing on the cone gives it away.
    """
    source = _local_shift(chi, mask, rng) + 0.5 * smooth_noise(mask.shape, rng, rng.uniform(1, 4))
    source = np.where(mask, source, 0).astype(np.float32)
    return forward_field(source, voxel_size, b0_dir, pad=False)


def _background_remnant(mask, voxel_size, b0_dir, rng):
    """Harmonic field of random sources outside the brain, strongest at its edge."""
    outside = ~ndimage.binary_dilation(mask, iterations=2)
    shell = outside & ndimage.binary_dilation(mask, iterations=8)
    source = np.where(shell, smooth_noise(mask.shape, rng, 3), 0).astype(np.float32)
    return forward_field(source, voxel_size, b0_dir, pad=False)


def _colored(mask, rng):
    """Noise with power at all scales, as interpolation, motion and unwrapping leave it."""
    out = np.zeros(mask.shape, np.float32)
    for scale in (1, 2, 4, 8):
        out += rng.uniform(0, 1) * smooth_noise(mask.shape, rng, scale)
    return out
