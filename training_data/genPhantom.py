"""Step 0 — built-in digital head phantoms: χ, mask, labels, magnitude and a noisy local field.

    python training_data/genPhantom.py [configs/demo/step0_genPhantom.py] [key=value ...]

Writes a folder `head_<seed>` per seed with `chi`, `mask`, `labels` (numbers of the public scorer),
`magnitude` and `localfield` (.nii.gz; χ and field in ppm), and `params.json` {TE s, B0 T, B0_dir,
voxel_size mm, SNR, seed}. A head depends on its seed only; finished heads are skipped.
"""

import json
from pathlib import Path

import numpy as np
from tqdm import tqdm

from configs import run_step, save_config, write_text
from training_data.dipole import GAMMA_MHZ_PER_T, dipole_kernel, forward_field
from training_data.nifti import write_volume
from training_data.noise import add_complex_noise
from training_data.phantom import LEAST_SHAPE, make_head
from training_data.volume import check_size

TAG = "[0 genPhantom]"
IMAGES = ("chi", "mask", "labels", "magnitude", "localfield")


def noise_level(config: dict) -> float:
    """Standard deviation of the field [ppm] that phase noise of 1/SNR radian means; SNR 0: none."""
    cycles_per_ppm = GAMMA_MHZ_PER_T * config["B0"] * config["TE"]
    return 1 / (config["SNR"] * 2 * np.pi * cycles_per_ppm) if config["SNR"] else 0.0


def tilted_affine(shape, voxel_size, b0_dir) -> np.ndarray:
    """Affine of a grid centred in a scanner whose bore (z) runs along `b0_dir` in voxel axes."""
    b = np.asarray(b0_dir, float) / np.linalg.norm(b0_dir)
    # Half a turn about z, then half a turn about the middle of z and b: the shortest rotation.
    z = np.array([0.0, 0.0, 1.0])
    middle = b + z if b[2] > -1 + 1e-9 else np.array([1.0, 0.0, 0.0])
    middle /= np.linalg.norm(middle)
    rotation = 2 * np.outer(middle, middle) - np.eye(3)
    rotation = rotation @ np.diag([-1.0, -1.0, 1.0])
    affine = np.eye(4)
    affine[:3, :3] = rotation.T * np.asarray(voxel_size, float)
    affine[:3, 3] = -affine[:3, :3] @ ((np.asarray(shape) - 1) / 2)
    return affine


def draw_head(config: dict, seed: int) -> dict:
    """Images of one head, (X, Y, Z) each."""
    echo = (config["TE"], config["B0"])
    shape, voxel_size = config["shape"], config["voxel_size"]
    lesions = (config["haemorrhage"], config["calcification"])
    head = make_head(shape, voxel_size, np.random.default_rng(seed), *lesions, echo)
    rng = np.random.default_rng([seed, 1])
    mask, magnitude = head["mask"], head["magnitude"]
    field = forward_field(head["chi"], voxel_size, config["b0_dir"])
    head["localfield"] = add_complex_noise(field, mask, magnitude, noise_level(config), rng)
    if config["SNR"]:  # the magnitude of the same noisy signal
        sigma = np.median(magnitude[mask]) / config["SNR"]
        noise = sigma * rng.standard_normal((2, *shape), np.float32)
        noisy = np.hypot(magnitude + noise[0], noise[1]) * mask
        head["magnitude"] = noisy / noisy.max()
    return head


def check(config: dict) -> None:
    """Raise a ValueError for values that no scan has."""
    for key in ("B0", "TE"):
        if config[key] <= 0:
            raise ValueError(f"{key}={config[key]}: expected a positive number")
    if config["TE"] > 0.5:
        raise ValueError(f"TE={config['TE']}: expected seconds, at most 0.5")
    if config["SNR"] < 0:
        raise ValueError(f"SNR={config['SNR']}: expected a positive number, or 0 for no noise")
    if not config["seeds"] or any(not isinstance(s, int) or s < 0 for s in config["seeds"]):
        raise ValueError(f"seeds={config['seeds']}: expected a list of whole numbers, 0 or more")
    check_size("shape", config["shape"], LEAST_SHAPE)
    dipole_kernel((2, 2, 2), config["voxel_size"], config["b0_dir"])


def main(config: dict) -> None:
    """Run step 0 for every seed of the config."""
    check(config)
    target = Path(config["dstFolder"])
    save_config(config, target, free=("seeds", "run", "dstFolder"))

    params = {key: config[key] for key in ("TE", "B0", "voxel_size", "SNR")}
    b0_dir = np.asarray(config["b0_dir"], float)
    params["B0_dir"] = (b0_dir / np.linalg.norm(b0_dir)).tolist()
    affine = tilted_affine(config["shape"], config["voxel_size"], b0_dir)

    for seed in tqdm(config["seeds"], desc=TAG, unit="head"):
        folder = target / f"head_{seed}"
        files = [folder / f"{name}.nii.gz" for name in IMAGES]
        if all(file.is_file() for file in (*files, folder / "params.json")):
            tqdm.write(f"{TAG} {folder}: finished before")
            continue
        head = draw_head(config, seed)
        for name, file in zip(IMAGES, files, strict=True):
            write_volume(file, head[name], affine=affine)
        # Last, so that a folder with params.json is whole.
        write_text(folder / "params.json", json.dumps({**params, "seed": seed}, indent=1) + "\n")
        spread = head["chi"][head["mask"]].std()
        tqdm.write(f"{TAG} {folder}: χ sd {spread:.4f} ppm, noise {noise_level(config):.5f} ppm")
    print(f"{TAG} heads in {target}", flush=True)


if __name__ == "__main__":
    run_step("step0_genPhantom", main)
