"""Refinement of a network's map on its scan: the map moves, not the weights.

argmin over χ of ½‖W·(D∗χ − field)‖² + α·Σ|∇χ| + ½·μ·‖χ − prior‖², by ADMM on FFTs with the true
kernel on the true grid (`tv_admm`); the prior is a mean of the network's and the total-variation
map. What the field says well is taken from the field, the rest from the prior. The weight α follows
from the noise of the scan, by one rule for all scans.
"""

import numpy as np

from training_data.inversion import noise_weight, tv_admm
from training_data.noise import estimate_noise


def refine(
    chi_network,
    field,
    mask,
    voxel_size,
    b0_dir=(0.0, 0.0, 1.0),
    *,
    magnitude=None,
    tv_prior: float = 0.5,
    tv_share: float = 0.6,
    pull: float = 0.3,
    iterations: int = 20,
    nonlinear: bool = False,
) -> np.ndarray:
    """Refine a network's map.

    Args:
        chi_network: the network's map, (X, Y, Z) [ppm].
        field: local field, (X, Y, Z) [ppm]; mask: (X, Y, Z).
        voxel_size: 3 floats [mm]; b0_dir: direction of B0 in voxel axes.
        magnitude: (X, Y, Z), any scale, or None.
        tv_prior: share of the total-variation map in what the result is pulled to; the two maps'
            errors differ, so that their mean is closer than either.
        tv_share: α over the weight that total variation alone would have at this noise.
        pull: μ, dimensionless: where D² is below it, the prior decides.
        iterations: of ADMM.
        nonlinear: compare phases instead of fields. Off: a local field is unwrapped already, and
            beside a source of 1 ppm phases beyond π lead the descent to a wrong map.

    Returns:
        χ, (X, Y, Z) float32 [ppm], zero outside the mask.

    Raises:
        ValueError: shapes that differ, or an empty mask.
    """
    if not np.shape(chi_network) == np.shape(field) == np.shape(mask):
        raise ValueError(
            f"map {np.shape(chi_network)}, field {np.shape(field)} and mask {np.shape(mask)}: "
            "expected one shape"
        )
    geometry = (field, mask, voxel_size, b0_dir)
    weight = noise_weight(estimate_noise(*geometry))
    terms = {"magnitude": magnitude, "nonlinear": nonlinear}
    prior = np.where(mask, chi_network, 0)
    if tv_prior:
        prior = (1 - tv_prior) * prior + tv_prior * tv_admm(*geometry, weight, **terms)
    return tv_admm(
        *geometry, tv_share * weight, **terms, iterations=iterations,
        prior=prior.astype(np.float32), pull=pull,
    )  # fmt: skip
