"""The physics: magnetic field of a susceptibility map as a convolution with the unit dipole.

field(k) = D(k) χ(k),  D(k) = 1/3 − (k·b)²/|k|²,  D(0) = 0, with b the direction of B0
(Salomir 2003, doi:10.1002/cmr.b.10083; Marques & Bowtell 2005, doi:10.1002/cmr.b.20034).
χ and field in ppm of B0, lengths in mm, b0_dir a unit vector in voxel axes.

Sampled in k-space, D is that of the dipole and of its images, one box apart along every axis; and
D(0) = 0 takes the mean off the field of the box, which is an offset where the box is no cube.
"""

import numpy as np

from training_data.backend import array_module, fft_module
from training_data.volume import bounding_box, next_fast_shape, uncrop

GAMMA_MHZ_PER_T = 42.577478518  # gyromagnetic ratio of the proton over 2π, CODATA 2018


def dipole_kernel(shape, voxel_size, b0_dir=(0.0, 0.0, 1.0), xp=np, real: bool = True):
    """Dipole kernel in k-space.

    Args:
        shape: grid (X, Y, Z), even or odd.
        voxel_size: 3 floats [mm].
        b0_dir: direction of B0 in voxel axes; normalised here.
        xp: numpy or cupy.
        real: the half grid of `rfftn` (X, Y, Z//2+1) when true, else the full grid of `fftn`.

    Returns:
        float32 kernel with values in [−2/3, 1/3] and D(0) = 0.

    Raises:
        ValueError: a direction that is not three numbers, or all zero; a voxel size that is not
            three positive numbers.
    """
    b, size = np.asarray(b0_dir), np.asarray(voxel_size)
    if b.shape != (3,) or b.dtype.kind not in "iuf" or not np.isfinite(b).all() or not b.any():
        raise ValueError(f"b0_dir {b0_dir}: expected three numbers, not all zero")
    if size.shape != (3,) or size.dtype.kind not in "iuf" or not (size > 0).all():
        raise ValueError(f"voxel_size {voxel_size}: expected three positive lengths in mm")
    b = b / np.linalg.norm(b)
    k = [xp.fft.fftfreq(n, d) for n, d in zip(shape, voxel_size, strict=True)]
    if real:
        k[2] = xp.fft.rfftfreq(shape[2], voxel_size[2])
    k = [
        f.astype(xp.float32).reshape([-1 if i == axis else 1 for i in range(3)])
        for axis, f in enumerate(k)
    ]
    k2 = k[0] ** 2 + k[1] ** 2 + k[2] ** 2
    k2[0, 0, 0] = 1
    along = [f * xp.float32(c) for f, c in zip(k, b, strict=True)]
    # At the Nyquist frequency of an even axis k and −k are one sample. Products with another axis
    # average out there; without that, the kernel of an oblique B0 is not that of a real field.
    nyquist = []
    for axis, n in enumerate(shape):
        last = xp.zeros_like(along[axis])
        if n % 2 == 0:
            at = tuple(n // 2 if i == axis else 0 for i in range(3))
            last[at] = along[axis][at]
            along[axis][at] = 0
        nyquist.append(last**2)
    squared = (along[0] + along[1] + along[2]) ** 2 + (nyquist[0] + nyquist[1] + nyquist[2])
    kernel = xp.float32(1 / 3) - squared / k2
    kernel[0, 0, 0] = 0
    return kernel


def near_cone(kernel, width: float):
    """exp(−(D/width)²): one on the cone, where a dipole kernel is zero, and nothing far off it."""
    return array_module(kernel).exp(-((kernel / width) ** 2))


def convolve(x, kernel):
    """Circular convolution of a real volume (X, Y, Z) with a kernel on its `rfftn` half grid."""
    fft = fft_module(x)
    return fft.irfftn(fft.rfftn(x) * kernel, s=x.shape)


def forward_field(chi, voxel_size, b0_dir=(0.0, 0.0, 1.0), pad: bool = True):
    """Field of a susceptibility map: D ∗ χ.

    Args:
        chi: susceptibility, (X, Y, Z) [ppm], NumPy or CuPy.
        voxel_size: 3 floats [mm].
        b0_dir: direction of B0 in voxel axes.
        pad: zero-pad to twice the size: the images of χ lie two boxes apart, not one (circular, as
            in 2020), and little of their field is left.

    Returns:
        field, (X, Y, Z) float32 [ppm].
    """
    xp = array_module(chi)
    chi = chi.astype(xp.float32, copy=False)
    shape = next_fast_shape([2 * n for n in chi.shape]) if pad else chi.shape
    fft = fft_module(chi)
    # Axis by axis, so that no FFT is taken of lines that are all padding.
    spectrum = fft.rfft(chi, shape[2], 2)
    for axis in (1, 0):
        spectrum = fft.fft(spectrum, shape[axis], axis)
    spectrum *= dipole_kernel(shape, voxel_size, b0_dir, xp)
    x, y, z = chi.shape
    spectrum = fft.ifft(spectrum, shape[0], 0)[:x]
    spectrum = fft.ifft(spectrum, shape[1], 1)[:, :y]
    return xp.ascontiguousarray(fft.irfft(spectrum, shape[2], 2)[..., :z])


def field_inside(chi, mask, voxel_size, b0_dir=(0.0, 0.0, 1.0)):
    """Field of the sources inside a mask, inside that mask: (D ∗ mask·χ)·mask, on the mask's box.

    Args:
        chi: susceptibility, (X, Y, Z) [ppm]; mask: (X, Y, Z), not empty; NumPy or CuPy.
        voxel_size: 3 floats [mm]; b0_dir: direction of B0 in voxel axes.

    Returns:
        field, (X, Y, Z) float32 [ppm], zero outside the mask; zero-padded, as `forward_field`.
    """
    inside = mask > 0
    box = bounding_box(inside)
    field = forward_field(chi[box] * inside[box], voxel_size, b0_dir)
    return uncrop(field * inside[box], box, chi.shape)


def gradient(x, voxel_size=(1.0, 1.0, 1.0)):
    """Forward differences of (X, Y, Z) as (3, X, Y, Z); the last one along each axis is zero."""
    xp = array_module(x)
    g = xp.zeros((3, *x.shape), x.dtype)
    g[0, :-1] = (x[1:] - x[:-1]) / voxel_size[0]
    g[1, :, :-1] = (x[:, 1:] - x[:, :-1]) / voxel_size[1]
    g[2, :, :, :-1] = (x[:, :, 1:] - x[:, :, :-1]) / voxel_size[2]
    return g
