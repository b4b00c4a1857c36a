"""Step 2 — field of every synthetic susceptibility map, by dipole convolution.

    python training_data/qsmFmapCal_gpu.py [configs/demo/step2_qsmFmapCal.py] [key=value ...]

Reads `suscp.nii.gz`, `Mask.nii.gz` and `sample.json` of every map of step 1, writes
`fmap_suscp.nii.gz` [ppm] beside them. On a GPU through CuPy where there is one, else with SciPy's
multi-threaded real FFT: the same code. Finished maps are skipped, so the same command resumes.
"""

from pathlib import Path

import numpy as np

from configs import run_step, save_config
from training_data.backend import to_device, to_host
from training_data.dipole import dipole_kernel, forward_field
from training_data.finescan import block_mean, sampled_field
from training_data.nifti import write_volume
from training_data.noise import (
    ERROR_SHARES,
    add_complex_noise,
    add_course,
    add_model_errors,
    smooth_noise,
)
from training_data.origin import CONFIGS, FREE
from training_data.removal import removal_error
from training_data.samples import (
    FIELD_FILE,
    FINE_FILE,
    check_processes,
    for_each_map,
    read_fine,
    read_sample,
    sample_folders,
)
from training_data.volume import bounding_box

TAG = "[2 qsmFmapCal]"


def check_options(config: dict) -> None:
    """Raise a ValueError for an option that no field could be made with."""
    to_device(np.zeros(1), config["device"])
    check_processes(config["processes"])
    for key in ("voxel_size", "b0_dir"):
        if config[key] is not None:
            dipole_kernel((2, 2, 2), **{"voxel_size": (1, 1, 1), key: config[key]})
    for key in ("noise_ppm", "courses_ppm"):
        sizes = config[key]
        numbers = all(isinstance(n, (int, float)) for n in sizes)
        if sizes and not (numbers and len(sizes) == 2 and 0 < sizes[0] <= sizes[1]):
            raise ValueError(f"{key} {sizes}: expected [low, high], 0 < low <= high [ppm], or []")
    for key in ("model_errors", "model_errors_chance", "courses_chance", "removal_chance"):
        if not 0 <= config[key] <= 1:
            raise ValueError(f"{key} {config[key]}: expected a number from 0 to 1")
    if unknown := set(config["model_error_shares"]) - set(ERROR_SHARES):
        raise ValueError(f"model_error_shares: unknown {unknown}; expected {list(ERROR_SHARES)}")
    for name, share in config["model_error_shares"].items():
        if not isinstance(share, (int, float)) or not share >= 0:
            raise ValueError(f"model_error_shares: {name} {share!r}: expected a number >= 0")


def plain_field(sample, config: dict) -> np.ndarray:
    """D ∗ χ of a map, (X, Y, Z) float32 [ppm], where χ is or may be."""
    chi, mask = sample.chi.data, sample.mask
    # Padded, the brain's box is enough. Circular, the grid decides what wraps around.
    box = bounding_box(mask | (chi != 0)) if config["pad"] else (slice(None),) * 3
    field = np.zeros(mask.shape, np.float32)
    source = to_device(chi[box], config["device"])
    field[box] = to_host(forward_field(source, sample.voxel_size, sample.b0_dir, pad=config["pad"]))
    return field


def field_of_voxels(folder: Path, sample, config: dict) -> np.ndarray:
    """Field of a map that lies on half the voxel edge as well, as a scan shows it; zero-padded.

    Raises:
        ValueError: as `read_fine`, or `pad` is False.
    """
    if not config["pad"]:
        raise ValueError(f"{folder / FINE_FILE}: fields on half the voxel edge do not wrap around; "
                         "set pad=True, or fineChance=0 in step 1")  # fmt: skip
    fine = read_fine(folder, sample)
    rng = np.random.default_rng([config["seed"], sample.index, 6])
    half = [n / 2 for n in sample.voxel_size]
    box = bounding_box(sample.mask | (block_mean(fine != 0) > 0))
    twice = tuple(slice(2 * s.start, 2 * s.stop) for s in box)
    field = np.zeros(sample.mask.shape, np.float32)
    field[box] = sampled_field(
        fine[twice], half, sample.b0_dir, sample.sampling, rng, config["device"]
    )
    return field


def field_of_map(folder: Path, config: dict):
    """Field of one map, with the noise that the config asks for.

    Args:
        folder: a map's folder of step 1.
        config: step 2's configuration; `voxel_size` and `b0_dir` are read from the file that it
            was saved to beside the map, so that step 3 goes by the same.

    Returns:
        field (X, Y, Z) float32 [ppm], zero outside the mask; and the map's Volume.
    """
    sample = read_sample(folder)
    chi, mask, voxel_size = sample.chi, sample.mask, sample.voxel_size
    field = (
        field_of_voxels(folder, sample, config) if sample.sampling else plain_field(sample, config)
    )
    rng = np.random.default_rng([config["seed"], sample.index, 2])
    if config["removal_chance"] and rng.random() < config["removal_chance"]:
        field += removal_error(chi.data, mask, voxel_size, sample.b0_dir, rng=rng)
    if config["model_errors"] and rng.random() < config["model_errors_chance"]:
        field = add_model_errors(
            field, chi.data, mask, voxel_size, rng, config["model_errors"], sample.b0_dir,
            config["model_error_shares"],
        )  # fmt: skip
    if config["courses_ppm"] and rng.random() < config["courses_chance"]:
        size = np.exp(rng.uniform(*np.log(config["courses_ppm"])))
        field = add_course(field, mask, voxel_size, size, rng)
    if config["noise_ppm"]:
        low, high = np.log(config["noise_ppm"])
        # Signal falls where χ is high (T2* shortening) and drifts with the receive coils.
        magnitude = np.exp(-np.abs(chi.data) / 0.5 + 0.2 * smooth_noise(mask.shape, rng, 12))
        field = add_complex_noise(field, mask, magnitude, np.exp(rng.uniform(low, high)), rng)
    return field * mask, chi


def main(config: dict) -> None:
    """Run step 2 on every map of `srcFolder`; go on past a map that fails, name it, exit 1."""
    check_options(config)
    source = Path(config["srcFolder"])
    folders = sample_folders(source)
    save_config(config, source, CONFIGS["step2"], free=FREE["step2"])

    todo = [f for f in folders if not (f / FIELD_FILE).is_file()]
    print(f"{TAG} {len(folders)} maps, {len(folders) - len(todo)} finished before", flush=True)

    def work(folder: Path) -> None:
        field, chi = field_of_map(folder, config)
        write_volume(folder / FIELD_FILE, field, like=chi)

    for_each_map(todo, work, TAG, len(folders), config["processes"])
    print(f"{TAG} fields in {source}", flush=True)


if __name__ == "__main__":
    run_step("step2_qsmFmapCal", main)
