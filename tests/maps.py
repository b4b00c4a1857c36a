"""Small synthetic maps on disk, as step 1 leaves them, for the tests of steps 2 to 4."""

import json

import numpy as np

from training_data.nifti import write_volume

SHAPE = (23, 30, 26)  # unequal, one odd
VOXEL = (1.0, 1.2, 1.5)


def oblique_affine(voxel_size=VOXEL):
    """Affine of a grid turned by 20 degrees about x and 10 degrees about z."""
    a, c = np.radians((20, 10))
    about_x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    about_z = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = about_x @ about_z * voxel_size
    affine[:3, 3] = (-20, 5, 11)
    return affine


def make_map(index, shape=SHAPE):
    """χ (X, Y, Z) [ppm] of blobs in an egg, and the egg as its mask."""
    rng = np.random.default_rng([7, index])
    places = np.stack(np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij"), -1)
    mask = np.linalg.norm(places / rng.uniform(0.75, 0.95, 3), axis=-1) < 1
    chi = np.zeros(shape, np.float32)
    for _ in range(6):
        near = np.linalg.norm(places - rng.uniform(-0.6, 0.6, 3), axis=-1) < rng.uniform(0.15, 0.4)
        chi[near] += rng.uniform(-0.1, 0.2)
    return (chi + 0.01) * mask, mask


def write_maps(folder, count=3, shapes=(SHAPE,), b0_dir=(0.1, -0.3, 0.95)):
    """Folders map_0000, map_0001, … of step 1."""
    for index in range(count):
        chi, mask = make_map(index, shapes[index % len(shapes)])
        place = folder / f"map_{index:04d}"
        write_volume(place / "suscp.nii.gz", chi, affine=oblique_affine())
        write_volume(place / "Mask.nii.gz", mask, affine=oblique_affine())
        record = {"seed": 0, "index": index, "b0_dir": list(b0_dir)}
        (place / "sample.json").write_text(json.dumps(record))
    return folder


def contents(folder):
    """Every file below a folder, and its bytes."""
    return {
        str(p.relative_to(folder)): p.read_bytes()
        for p in sorted(folder.rglob("*"))
        if p.is_file() and p.suffix != ".json"
    }
