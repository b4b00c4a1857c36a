"""What removing the background field does to a local field: errors for training data.

The field of everything outside the brain is fifty times the local one. Methods that take it off
leave remnants of it, which are harmonic inside the brain and strongest at its edge, and take some
of the local field along. Here a background is drawn, and one of the common methods applied:
V-SHARP (Li 2011, doi:10.1016/j.neuroimage.2010.11.088), RESHARP (Sun & Wilman 2014,
doi:10.1002/mrm.24765) or PDF (Liu 2011, doi:10.1002/nbm.1670).
"""

import numpy as np
from scipy import ndimage

from training_data.backend import fft_module
from training_data.dipole import convolve, dipole_kernel
from training_data.noise import smooth_noise
from training_data.smv import SMV
from training_data.volume import bounding_box, crop_pad, next_fast_shape, uncrop

RAMP_MM = 1.5  # over which sources begin, so far beyond what the method is given
MARGIN_MM = 24.0  # of the volume around the brain that is simulated
AIR_PPM = 9.4  # χ of air over that of tissue
# Drawn for each head, [low, high]: thickness of skull and scalp [mm], spread of χ in them [ppm],
# number, radius and distance to the brain of air-filled sinuses around its lower third [mm].
SCALP_MM, SCALP_PPM = (9.0, 16.0), (0.05, 0.4)
SINUSES, SINUS_MM, SINUS_GAP_MM = (0, 4), (4.0, 9.0), (2.0, 8.0)
# Of the methods: V-SHARP's largest radius [mm], smallest one [voxels] and threshold; RESHARP's
# radius [mm] and Tikhonov weight; PDF's iterations.
LARGEST_MM, SMALLEST, THRESHOLD = (8.0, 14.0), (1, 3), (0.02, 0.1)
RESHARP_MM, RESHARP_WEIGHT = (4.0, 8.0), (1e-4, 3e-3)
PDF_ITERATIONS = (10, 40)
METHODS = {"vsharp": 0.5, "resharp": 0.25, "pdf": 0.25}  # how often each is drawn
RADII = 7  # of V-SHARP
LARGEST_ERROR = 0.8  # standard deviation over that of the local field; more than that is seen


def removal_error(chi, mask, voxel_size, b0_dir=(0.0, 0.0, 1.0), *, rng, method=None):
    """What a random removal of a random background changes in a head's local field.

    Args:
        chi: (X, Y, Z) [ppm]; mask: (X, Y, Z) bool.
        voxel_size: 3 floats [mm]; b0_dir: direction of B0 in voxel axes.
        rng: numpy Generator.
        method: "vsharp", "resharp" or "pdf"; None: drawn.

    Returns:
        (X, Y, Z) float32 [ppm] to add to the local field, zero outside the mask; in it of mean zero
        and at most 0.8 of the local field's standard deviation.
    """
    box = bounding_box(mask)
    room = [2 * round(MARGIN_MM / d) for d in voxel_size]
    shape = next_fast_shape([s.stop - s.start + r for s, r in zip(box, room, strict=True)])
    brain = crop_pad(mask, box, shape)
    source = np.where(brain, crop_pad(chi, box, shape), 0).astype(np.float32)
    kernel = dipole_kernel(shape, voxel_size, b0_dir)
    local = convolve(source, kernel)
    method = method or rng.choice(list(METHODS), p=list(METHODS.values()))
    reach, remove = {"vsharp": _some_vsharp, "resharp": _some_resharp, "pdf": _some_pdf}[method](
        voxel_size, b0_dir, rng
    )
    # Balls that fit into it leave the whole brain; there is nothing else in what is given up.
    distance = ndimage.distance_transform_edt(~brain, sampling=voxel_size)
    outside = draw_surroundings(distance, voxel_size, rng)
    outside *= np.clip((distance - reach) / RAMP_MM - 1, 0, 1)
    # Edges between voxels would ring through the whole volume, which no harmonic field does.
    background = convolve(ndimage.gaussian_filter(outside, 1), kernel)
    found = remove(local + background, distance <= reach)
    error = np.where(brain, found - local, 0)
    error[brain] -= error[brain].mean()
    error *= min(LARGEST_ERROR * float(local[brain].std()) / float(error[brain].std()), 1)
    return uncrop(error.astype(np.float32), box, mask.shape) * mask


def draw_surroundings(distance, voxel_size, rng) -> np.ndarray:
    """Susceptibility around a brain, (X, Y, Z) float32 [ppm]: skull and scalp, sinuses, air.

    Args:
        distance: to the brain, (X, Y, Z) [mm], zero in it; voxel_size: 3 floats [mm].
        rng: numpy Generator.
    """
    brain = distance == 0
    scale = 2 / float(np.mean(voxel_size))
    chi = smooth_noise(brain.shape, rng, scale) * np.float32(rng.uniform(*SCALP_PPM))
    chi[distance > rng.uniform(*SCALP_MM)] = AIR_PPM
    low, high = (f(np.argwhere(brain), axis=0) for f in (np.min, np.max))
    axes = [np.arange(n) * d for n, d in zip(brain.shape, voxel_size, strict=True)]
    x, y, z = np.meshgrid(*axes, indexing="ij", sparse=True)
    below = np.arange(brain.shape[2]) < low[2] + 0.35 * (high[2] - low[2])
    near = (distance > SINUS_GAP_MM[0]) & (distance < SINUS_GAP_MM[1]) & below
    places = np.argwhere(near)
    for _ in range(rng.integers(*SINUSES, endpoint=True) if len(places) else 0):
        i, j, k = places[rng.integers(len(places))] * np.asarray(voxel_size)
        inside = (x - i) ** 2 + (y - j) ** 2 + (z - k) ** 2 < rng.uniform(*SINUS_MM) ** 2
        chi[inside & (distance > SINUS_GAP_MM[0])] = AIR_PPM
    chi[brain] = 0
    return chi


def vsharp(field, mask, voxel_size, radii, threshold: float = 0.05, tikhonov: float = 0.0):
    """Local field by SHARP with radii that shrink towards the edge of the mask.

    Args:
        field: total field, (X, Y, Z) [ppm]; mask: (X, Y, Z) bool.
        voxel_size: 3 floats [mm]; radii: of the balls [mm], falling.
        threshold: |1 − SMV| in k-space below which nothing is divided.
        tikhonov: above 0: weight of |χ|² instead of a threshold; with one radius, RESHARP.

    Returns:
        local field, (X, Y, Z) float32 [ppm], zero where not even the smallest ball fits; where one
        does, (X, Y, Z) bool.
    """
    field = np.where(mask, field, 0).astype(np.float32)
    filtered, done = np.zeros_like(field), np.zeros_like(mask)
    first = None
    for radius in radii:
        smv = SMV(field.shape, voxel_size, radius, harmonic=True)
        first = first or smv
        fits = mask & (smv(mask) > 0.999)
        new = fits & ~done
        filtered[new] = (field - smv(field))[new]
        done |= fits
    fft, response = fft_module(field), 1 - first.kernel.real
    spectrum = fft.rfftn(filtered, s=first.padded)
    if tikhonov:
        spectrum = spectrum * (response / (response**2 + np.float32(tikhonov)))
    else:
        kept = np.abs(response) > threshold
        spectrum = np.where(kept, spectrum / np.where(kept, response, 1), 0)
    inner = tuple(slice(0, n) for n in field.shape)
    return fft.irfftn(spectrum, s=first.padded)[inner] * done, done


def pdf(field, mask, voxel_size, b0_dir=(0.0, 0.0, 1.0), iterations: int = 30):
    """Local field by projection onto the fields of dipoles outside the mask.

    Args:
        field: total field, (X, Y, Z) [ppm]; mask: (X, Y, Z) bool, with a margin around it.
        voxel_size: 3 floats [mm]; b0_dir: direction of B0 in voxel axes.
        iterations: of conjugate gradients on the normal equations.

    Returns:
        local field, (X, Y, Z) float32 [ppm], zero outside the mask.
    """
    kernel = dipole_kernel(field.shape, voxel_size, b0_dir)
    left = np.where(mask, field, 0).astype(np.float32)
    gradient = np.where(mask, 0, convolve(left, kernel))
    step, power = gradient.copy(), float(np.vdot(gradient, gradient))
    for _ in range(iterations):
        made = np.where(mask, convolve(step, kernel), 0)
        left -= np.float32(power / max(float(np.vdot(made, made)), 1e-30)) * made
        gradient = np.where(mask, 0, convolve(left, kernel))
        before, power = power, float(np.vdot(gradient, gradient))
        step = gradient + np.float32(power / max(before, 1e-30)) * step
    return left


def _some_vsharp(voxel_size, b0_dir, rng):
    """How far [mm] beyond the brain V-SHARP needs the field, and the method with its numbers."""
    smallest = float(rng.integers(*SMALLEST, endpoint=True) * max(voxel_size))
    radii = np.linspace(rng.uniform(*LARGEST_MM), smallest, RADII).tolist()
    threshold = rng.uniform(*THRESHOLD)
    return smallest, lambda total, mask: vsharp(total, mask, voxel_size, radii, threshold)[0]


def _some_resharp(voxel_size, b0_dir, rng):
    radius, weight = rng.uniform(*RESHARP_MM), np.exp(rng.uniform(*np.log(RESHARP_WEIGHT)))
    return radius, lambda total, mask: vsharp(total, mask, voxel_size, [radius], tikhonov=weight)[0]


def _some_pdf(voxel_size, b0_dir, rng):
    iterations = rng.integers(*PDF_ITERATIONS, endpoint=True)
    return 0.0, lambda total, mask: pdf(total, mask, voxel_size, b0_dir, iterations)
