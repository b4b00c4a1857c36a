"""A wider network that begins with a trained one's function: Net2WiderNet.

Chen 2016, arXiv 1511.05641: features beyond those of the trained network are copies of it, and
what listens to a feature takes a share from each of its copies. The shares are drawn weight by
weight, so that copies have other gradients and part ways in training.
"""

import numpy as np

SHARES = (0.25, 0.75)  # drawn from, before those of one feature's copies are made to sum to one


def widened(kernels: dict, spec: dict, wide: dict, rng) -> dict:
    """Kernels of a U-Net with more filters, without norm and bias, which has the same function.

    Args:
        kernels: `<level>_<i>_conv/kernel` (3, 3, 3, in, out) and `last/kernel` of a network whose
            specification is `spec`; others are returned as they are.
        wide: specification of the wider one: another number of filters, all else the same.
        rng: numpy Generator, for which features are copied and the shares of the copies.

    Returns:
        name → kernel, float32.
    """
    out = {name: np.asarray(kernel, np.float32) for name, kernel in kernels.items()}
    depth = spec["depth"]

    def level(name: str, origins, d: int):
        """Widen the convolutions of a level; features → what each is a copy of, before, after."""
        number, more = spec["filters"] * 2**d, (wide["filters"] - spec["filters"]) * 2**d
        for i in range(spec["convs_per_level"]):
            copies = np.concatenate([np.arange(number), rng.choice(number, more, more > number)])
            key = f"{name}_{i}_conv/kernel"
            out[key] = shared(out[key], origins, rng)[..., copies]
            origins = copies
        return origins

    origins, skips = np.arange(out["down0_0_conv/kernel"].shape[3]), []
    for d in range(depth):
        origins = level(f"down{d}", origins, d)
        skips.append(origins)
    for d in reversed(range(depth - 1)):
        below = spec["filters"] * 2 ** (d + 1)
        origins = level(f"up{d}", np.concatenate([origins, skips[d] + below]), d)
    out["last/kernel"] = shared(out["last/kernel"], origins, rng)
    return out


def shared(kernel, origins, rng) -> np.ndarray:
    """A kernel (3, 3, 3, in, out) for incoming features of which some are copies.

    Args:
        origins: (more,) for each incoming feature the one of `kernel` that it is a copy of.

    Returns:
        (3, 3, 3, more, out) float32; over the copies of a feature it sums to the kernel's.
    """
    shares = rng.uniform(*SHARES, (len(origins), kernel.shape[4]))
    totals = np.zeros((kernel.shape[3], kernel.shape[4]))
    np.add.at(totals, origins, shares)
    return (kernel[:, :, :, origins] * (shares / totals[origins])).astype(np.float32)
