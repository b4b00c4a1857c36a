"""A tiny scan and tiny networks for the tests of steps 5 and 6."""

from pathlib import Path

import numpy as np

import network_model.quiet  # noqa: F401

# isort: split
import keras
import pytest

from network_model.unet import build_unet, make_spec, save_network
from training_data.dipole import forward_field
from training_data.nifti import write_volume

# numpy 2.4 warns of how Keras 3.15 turns a TensorFlow variable into an array.
KERAS_ON_NUMPY = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
SHAPE = (29, 34, 25)
VOXEL = (1.0, 1.2, 1.4)
PLAIN = {"filters": 3, "depth": 3}
INVERSION = {**PLAIN, "inputs": ["field", "mask", "tikhonov"], "residual": "tikhonov"}


def tilted_affine(degrees: float, voxel_size=VOXEL) -> np.ndarray:
    """Affine of a grid turned about its first axis."""
    c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    affine = np.eye(4)
    affine[:3, :3] = np.array([[1, 0, 0], [0, c, -s], [0, s, c]]) * voxel_size
    affine[:3, 3] = (-12, 7, 3)
    return affine


def make_scan(shape=SHAPE, voxel_size=VOXEL, b0_dir=(0, 0, 1), seed=0) -> dict[str, np.ndarray]:
    """χ of some spheres in an ellipsoid, its noisy field, mask and magnitude."""
    rng = np.random.default_rng(seed)
    x = np.stack(np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij"), -1)
    mask = (x**2).sum(-1) < 0.7
    chi = np.zeros(shape, np.float32)
    for _ in range(10):
        centre, radius = rng.uniform(-0.5, 0.5, 3), rng.uniform(0.1, 0.3)
        chi[((x - centre) ** 2).sum(-1) < radius**2] += rng.uniform(-0.05, 0.15)
    chi *= mask
    noise = 0.001 * rng.standard_normal(shape)
    field = (forward_field(chi, voxel_size, b0_dir) + noise) * mask
    magnitude = (200 * rng.uniform(0.5, 1, shape) * mask).astype(np.float32)
    return {"chi": chi, "field": field.astype(np.float32), "mask": mask, "magnitude": magnitude}


def write_scan(folder: Path, affine, **kwargs) -> dict[str, np.ndarray]:
    """Write a scan's volumes as .nii.gz in a folder; returns them."""
    scan = make_scan(**kwargs)
    for name, data in scan.items():
        write_volume(folder / f"{name}.nii.gz", data, affine=affine)
    return scan


def make_network(path: Path, config: dict, seed: int = 0):
    """A random network with statistics and a last layer that are not trivial; also its file."""
    keras.utils.set_random_seed(seed)
    spec = make_spec(config)
    model = build_unet(spec, ("target",))
    rng = np.random.default_rng(seed)
    for layer in model.layers:
        for variable in layer.variables:
            if "moving" in variable.name or layer.name == "last":
                spread = 0.05 if layer.name == "last" else 0.5
                values = rng.uniform(0, spread, variable.shape) + ("variance" in variable.name)
                variable.assign(values.astype(np.float32))
    save_network(model, spec, path)
    return model, spec
