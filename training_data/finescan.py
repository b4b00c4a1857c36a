"""A simulated scan whose voxels hold structure: the signal of a head on half the voxel edge.

A voxel's signal is the sum of what it holds, by magnitude, so that its phase is not the mean field
where tissues with signal and without it meet, and least of all in and beside strong sources, which
dephase it. The in-silico head of the 2019 challenge is made so (Marques 2021,
doi:10.1002/mrm.28716).
"""

import numpy as np
import scipy.fft

from training_data.backend import cores, to_device, to_host
from training_data.dipole import GAMMA_MHZ_PER_T, forward_field
from training_data.phantom import make_head
from training_data.volume import window

B0_T = 3.0
ECHOES = (0.005, 0.012, 0.019, 0.026)  # [s]
LEAST_T2STAR = 1e-3  # [s]
MOSTLY_BRAIN = 0.75  # share of a voxel in the fine mask from which it counts as brain
FINE_MM = (0.5, 0.5, 0.5)
# How a voxel's value comes from a finer grid: the mean of what is in it, as in numerical phantoms;
# or the inner part of k-space, as in a scanner.
SAMPLINGS = ("mean", "scanner")
RADIANS = (6.0, 30.0)  # of phase per ppm at the echo: 8 to 37 ms at 3 T, 3 to 16 ms at 7 T


def fine_scan(seed: int, shape, noise_ppm: float, lesions: bool = True) -> dict:
    """Scan at 1 mm of a head of step 0 whose signal was made at 0.5 mm.

    Args:
        seed: of the head and its noise.
        shape: (X, Y, Z) at 1 mm.
        noise_ppm: median of the noise's standard deviation in the field, about [ppm].
        lesions: a haemorrhage of 0.5 to 2 ppm, and one to three calcifications of −1 to −3 ppm.

    Returns:
        dict of arrays (X, Y, Z): ``field`` as fitted and ``chi``, the mean of the fine voxels,
        float32 [ppm]; ``mask`` bool; ``labels`` uint8, see `phantom.LABELS`; zero outside the mask.
    """
    hz_per_ppm = GAMMA_MHZ_PER_T * B0_T
    rng = np.random.default_rng(seed)
    fine = make_head([2 * n for n in shape], FINE_MM, rng, lesions, lesions, (0.0, B0_T))
    field = forward_field(fine["chi"], FINE_MM)
    decay = -1 / np.maximum(fine["t2star"], LEAST_T2STAR) + 2j * np.pi * hz_per_ppm * field
    decay = decay.astype(np.complex64)
    signals = [half_grid(fine["magnitude"] * np.exp(te * decay)) for te in ECHOES]
    mask = block_mean(fine["mask"].astype(np.float32)) > MOSTLY_BRAIN
    fitted = fit_field(signals, ECHOES, block_mean(field), mask, hz_per_ppm, noise_ppm, rng)
    chi, labels = block_mean(fine["chi"]) * mask, fine["labels"][::2, ::2, ::2] * mask
    return {"field": fitted, "chi": chi, "mask": mask, "labels": labels}


def sampled(x, sampling: str) -> np.ndarray:
    """Values on half the grid, (2X, 2Y, 2Z) → (X, Y, Z), by one of `SAMPLINGS`."""
    if sampling == "mean":
        return block_mean(x)
    return half_grid(x)


def sampled_field(chi, voxel_size, b0_dir, sampling: str, rng, device: str = "auto"):
    """Field that a scan shows of χ on half its voxel edge.

    The phase of a voxel is that of the sum of its parts, each by its magnitude, which falls with
    |χ|, as T2* does, and rises or falls with χ, as proton density and T1 may; none where χ is 0.

    Args:
        chi: (2X, 2Y, 2Z) [ppm].
        voxel_size: its edges, 3 floats [mm]; b0_dir: direction of B0 in voxel axes.
        sampling: one of `SAMPLINGS`.
        rng: numpy Generator: phase per ppm, contrast.
        device: where the convolution runs, see `backend.to_device`.

    Returns:
        field, (X, Y, Z) float32 [ppm].
    """
    field = to_host(forward_field(to_device(chi, device), voxel_size, b0_dir))
    decay, contrast = rng.uniform(0.15, 0.6), rng.normal(0, 0.2)
    radians = np.float32(rng.uniform(*RADIANS))
    shade = contrast * np.tanh(chi / max(chi[chi != 0].std(), 1e-3)) - np.abs(chi) / decay
    signal = np.exp(shade.astype(np.float32) + 1j * radians * field) * (chi != 0)
    expected = block_mean(field)
    parts = sampled(signal, sampling) * np.exp(-1j * radians * expected)
    return (expected + np.angle(parts) / radians).astype(np.float32)


def fit_field(signals, echoes, mean_field, mask, hz_per_ppm: float, noise_ppm: float, rng):
    """Field of complex echoes, by least squares of their phases over echo times, with noise.

    Args:
        signals: an array (X, Y, Z) complex per echo; echoes: times [s].
        mean_field: (X, Y, Z) [ppm]; phases are unwrapped to within π of it.
        mask: (X, Y, Z) bool.
        hz_per_ppm: of the scanner.
        noise_ppm: median of the noise's standard deviation in the field, about [ppm].
        rng: numpy Generator.

    Returns:
        field, (X, Y, Z) float32 [ppm], zero outside the mask.
    """
    power = sum((te * np.abs(s)) ** 2 for te, s in zip(echoes, signals, strict=True))
    sigma = np.float32(noise_ppm * 2 * np.pi * hz_per_ppm * np.sqrt(np.median(power[mask])))
    above = below = 0.0
    for te, signal in zip(echoes, signals, strict=True):
        noise = rng.standard_normal((2, *mask.shape), np.float32) * sigma
        noisy = signal + noise[0] + 1j * noise[1]
        expected = 2 * np.pi * hz_per_ppm * te * mean_field
        phase = expected + np.angle(noisy * np.exp(-1j * expected))
        weight = np.abs(noisy) ** 2
        above, below = above + te * weight * phase, below + te**2 * weight
    field = np.divide(above, below, out=np.zeros_like(mean_field), where=mask & (below > 0))
    return (field / (2 * np.pi * hz_per_ppm)).astype(np.float32)


def block_mean(x) -> np.ndarray:
    """Mean over blocks of 2³ voxels, (2X, 2Y, 2Z) → (X, Y, Z)."""
    a, b, c = (n // 2 for n in x.shape)
    kind = np.complex64 if np.iscomplexobj(x) else np.float32
    return x.reshape(a, 2, b, 2, c, 2).mean((1, 3, 5), dtype=kind)


def half_grid(signal) -> np.ndarray:
    """A scanner's image on half the grid: the inner half of k-space, centred on blocks of 2³.

    Args:
        signal: (2X, 2Y, 2Z) complex; of an odd size the half is rounded down.

    Returns:
        (X, Y, Z) complex64.
    """
    spectrum = scipy.fft.fftshift(scipy.fft.fftn(signal, workers=cores()))
    # Frequency 0 is at n // 2, and comes to (n // 2) // 2 of the half.
    starts = [n // 2 - (n // 2) // 2 for n in signal.shape]
    spectrum = spectrum[window(starts, [n // 2 for n in signal.shape])]
    scale = np.float32(spectrum.size / signal.size)
    for axis, n in enumerate(signal.shape):
        # Sample 0 of the half grid is the middle of the fine samples 0 and 1.
        k = (np.arange(n // 2) - (n // 2) // 2) / n
        shift = np.exp(1j * np.pi * k).astype(np.complex64)
        # Frequency −1/2 has no partner; half a sample on, the mean of both is 0.
        shift[np.abs(k) > (n // 2 - 0.5) / (2 * n)] = 0
        along = [-1 if i == axis else 1 for i in range(3)]
        spectrum = spectrum * shift.reshape(along)
    coarse = scipy.fft.ifftn(scipy.fft.ifftshift(spectrum), workers=cores())
    return (coarse * scale).astype(np.complex64)
