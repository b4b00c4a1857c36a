"""Spherical mean value (SMV): the mean of a volume over a ball around every voxel.

A harmonic field equals its own SMV (Schweser 2011, doi:10.1016/j.neuroimage.2010.10.070); here it
serves to erode masks by a radius in mm, whatever the voxel size.
"""

import numpy as np

from training_data.backend import array_module, fft_module
from training_data.volume import bounding_box, next_fast_shape


class SMV:
    """Convolution with a ball whose weights sum to one; zero outside the volume, no wrap-around.

    Args:
        shape: grid (X, Y, Z), even or odd.
        voxel_size: 3 floats [mm].
        radius: radius of the ball [mm]; below one voxel the operator is the identity.
        xp: numpy or cupy.
        harmonic: weigh the ball's voxels so that its second moments are the same along all axes; a
            harmonic field then equals its mean to the third order, on any voxels. A ball of equal
            weights on anisotropic ones leaves as much as a thousandth of a background.

    Raises:
        ValueError: a voxel size that is not positive, or a radius that is not positive and finite.
    """

    def __init__(self, shape, voxel_size, radius: float, xp=np, harmonic=False):
        if len(voxel_size) != 3 or not np.all(np.asarray(voxel_size) > 0):
            raise ValueError(f"voxel_size {voxel_size}: expected three positive lengths in mm")
        if not 0 < radius < np.inf:
            raise ValueError(f"SMV radius {radius}: expected a positive length in mm")
        self.shape = tuple(int(n) for n in shape)
        reach = [int(radius / d) for d in voxel_size]
        self.padded = next_fast_shape([n + 2 * r for n, r in zip(self.shape, reach, strict=True)])
        offsets = [
            xp.fft.fftfreq(n, 1 / n) * d for n, d in zip(self.padded, voxel_size, strict=True)
        ]
        x, y, z = xp.meshgrid(*offsets, indexing="ij", sparse=True)
        # A relative 1e-6 keeps voxels exactly on the surface inside despite rounding.
        ball = (x * x + y * y + z * z <= (radius * (1 + 1e-6)) ** 2).astype(xp.float32)
        weights = _harmonic_weights(ball, (x, y, z), xp) if harmonic else ball / ball.sum()
        self.kernel = fft_module(ball).rfftn(weights)

    def __call__(self, x):
        """Mean over the ball around each voxel, (X, Y, Z) float32.

        Raises:
            ValueError: another shape than the operator's.
        """
        if x.shape != self.shape:
            raise ValueError(f"SMV made for shape {self.shape}, got a volume of {x.shape}")
        fft = fft_module(x)
        xp = array_module(x)
        mean = fft.irfftn(
            fft.rfftn(x.astype(xp.float32), s=self.padded) * self.kernel, s=self.padded
        )
        return mean[: self.shape[0], : self.shape[1], : self.shape[2]]


def _harmonic_weights(ball, axes, xp):
    """Weights of a ball's voxels, nearest to equal ones, whose second moments are the same."""
    inside = ball > 0
    squares = [xp.broadcast_to(x * x, ball.shape)[inside] for x in axes]
    rows = xp.stack([xp.ones_like(squares[0]), *squares])
    sums = rows.mean(1)
    sums[1:] = sums[1:].mean()
    weights = xp.zeros_like(ball)
    equal = xp.full(rows.shape[1], 1 / rows.shape[1])
    weights[inside] = equal + xp.linalg.pinv(rows) @ (sums - rows @ equal)
    return weights


def erode(mask, voxel_size, radius: float, times: int = 1, threshold: float = 0.999) -> list:
    """Erode a mask with the SMV operator: keep the voxels where SMV(mask) > threshold.

    Args:
        mask: (X, Y, Z) bool.
        voxel_size: 3 floats [mm].
        radius: radius of the ball [mm]; 0 leaves the mask as it is.
        times: how many erosions, one after another.
        threshold: share of the ball that has to lie in the mask.

    Returns:
        `times` masks (X, Y, Z) bool, each the erosion of the one before. They may be empty.

    Raises:
        ValueError: the mask is empty, or as `SMV`.
    """
    if radius == 0:
        return [mask.copy() for _ in range(times)]
    box = bounding_box(mask)
    inner = mask[box]
    operator = SMV(inner.shape, voxel_size, radius, array_module(mask))
    eroded = []
    for _ in range(times):
        # A full ball computed by FFT is 1 to a few 1e-6; one voxel missing of 33 is 0.97.
        inner = inner & (operator(inner) > threshold)
        whole = array_module(mask).zeros(mask.shape, bool)
        whole[box] = inner
        eroded.append(whole)
    return eroded
