"""Refinement of a network's map on its scan: the map moves, not the weights.

argmin over χ of ½‖W·(e^{jD∗χ} − e^{j·field})‖² + α·Σ|∇χ| + ½·μ·‖χ − χ_net‖², by ADMM on FFTs with
the true kernel on the true grid (`tv_admm`). What the field says well is taken from the field, the
rest stays the network's. Both weights follow from the noise of the scan, by one rule for all scans.
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
    tv_share: float = 0.3,
    pull: float = 0.1,
    iterations: int = 25,
) -> np.ndarray:
    """Refine a network's map.

    Args:
        chi_network: the network's map, (X, Y, Z) [ppm].
        field: local field, (X, Y, Z) [ppm]; mask: (X, Y, Z).
        voxel_size: 3 floats [mm]; b0_dir: direction of B0 in voxel axes.
        magnitude: (X, Y, Z), any scale, or None.
        tv_share: α over the weight that total variation alone would have at this noise.
        pull: μ, dimensionless: where D² is below it, the network decides.
        iterations: of ADMM.

    Returns:
        χ, (X, Y, Z) float32 [ppm], zero outside the mask.

    Raises:
        ValueError: shapes that differ, or an empty mask.
    """
    geometry = (field, mask, voxel_size, b0_dir)
    weight = tv_share * noise_weight(estimate_noise(*geometry))
    inside = chi_network[mask > 0].mean(dtype=float)
    prior = np.where(mask, chi_network - inside, 0).astype(np.float32)
    chi = tv_admm(
        *geometry, weight, magnitude=magnitude, nonlinear=True, iterations=iterations,
        prior=prior, pull=pull,
    )  # fmt: skip
    return chi
