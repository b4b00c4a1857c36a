"""Input channels of the network, from one scan's whole volume: the same in steps 3, 4, 5 and 6.

A patch alone cannot show the long-range part of the dipole. A direct inversion of the whole volume,
with the true kernel on the true grid, carries it in, and with it voxel size and B0 direction.
"""

import numpy as np

from training_data.backend import on_fastest
from training_data.inversion import noise_weight, tikhonov, tv_admm, wiener
from training_data.noise import estimate_noise, structured_noise

CHANNELS = (
    "field", "mask", "noise", "structured", "tikhonov", "tikhonov_strong", "wiener", "wiener_cone",
    "tv",
)  # fmt: skip
# Made of χ of another network, see network_model/inference.py: that map; total variation guided by
# it, for χ and for what is to be added to it.
FIRST = "first"
GUIDED = ("guided", "corrected")
UNSIGNED = ("mask", "noise", "structured")  # the same for the opposite field
TIKHONOV_WEIGHT = 0.01  # dimensionless, on D²: nearly the raw inverse, all of the data
TIKHONOV_STRONG_WEIGHT = 0.1  # dimensionless, on D²
TV_ITERATIONS = 15


def check_inputs(inputs) -> None:
    """Raise a ValueError for an empty list of channels or an unknown one."""
    known = (*CHANNELS, FIRST, *GUIDED)
    unknown = [name for name in inputs if name not in known]
    if unknown or not inputs:
        raise ValueError(f"inputs {list(inputs)}: expected a choice of {', '.join(known)}")
    guided = [name for name in inputs if name in GUIDED]
    if guided and FIRST not in inputs:
        raise ValueError(f"inputs {guided} are guided by the map {FIRST!r}; add it")


def extra_channels(inputs) -> list[str]:
    """The channels of `inputs` beyond field and mask, in their order."""
    return [name for name in inputs if name not in ("field", "mask")]


def make_channels(field, mask, voxel_size, b0_dir, inputs) -> dict[str, np.ndarray]:
    """Channels of a scan.

    Args:
        field: local field, (X, Y, Z) [ppm].
        mask: (X, Y, Z) bool.
        voxel_size: 3 floats [mm].
        b0_dir: direction of B0 in voxel axes.
        inputs: names out of `CHANNELS`.

    Returns:
        name → (X, Y, Z) float32, zero outside the mask: fields, noise and susceptibilities in ppm.

    Raises:
        ValueError: unknown channel, or one that only a network can make.
    """
    check_inputs(inputs)
    if FIRST in inputs:
        raise ValueError(f"input {FIRST!r}: made by a network; set firstFile to its weights")
    field = np.where(mask, field, 0).astype(np.float32)
    geometry = (field, mask, voxel_size, b0_dir)
    sigma = estimate_noise(*geometry) if {"noise", "tv"} & set(inputs) else 0.0
    makers = {
        "field": lambda: field,
        "mask": lambda: mask.astype(np.float32),
        "noise": lambda: mask * np.float32(sigma),
        "structured": lambda: mask * np.float32(structured_noise(*geometry)[0]),
        "tikhonov": lambda: on_fastest(tikhonov)(*geometry, weight=TIKHONOV_WEIGHT),
        "tikhonov_strong": lambda: on_fastest(tikhonov)(*geometry, weight=TIKHONOV_STRONG_WEIGHT),
        "wiener": lambda: wiener(*geometry, off_cone=1),
        "wiener_cone": lambda: wiener(*geometry),
        "tv": lambda: on_fastest(tv_admm)(
            *geometry, weight=noise_weight(sigma), iterations=TV_ITERATIONS
        ),
    }
    return {name: makers[name]() for name in inputs}
