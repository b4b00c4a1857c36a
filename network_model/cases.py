"""Validation cases of the score card: simulated heads, and what was measured.

Step 0's heads with seeds of 1000 and more and the FANSI phantom were never trained on; COSMOS, of
the head that the measured field is of, was.

Simulated fields are made with 2× zero padding and complex-domain noise whose standard deviation
follows the magnitude.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from scipy import ndimage

from network_model.subject import Subject, make_subject
from training_data.dipole import forward_field
from training_data.finescan import fine_scan
from training_data.nifti import read_mask, read_volume
from training_data.noise import add_complex_noise, add_model_errors
from training_data.phantom import LABELS, make_head
from training_data.removal import removal_error
from training_data.shapes import sphere

TILT = (0.0, np.sin(np.radians(20)), np.cos(np.radians(20)))  # B0 turned by 20° about x
ERRORS = 0.6  # structured errors over the field, both as standard deviations
# Lesions of the lesion cases: centre as a share of the mask's box, radius [mm], χ added [ppm].
LESIONS = (
    ((0.35, 0.6, 0.6), 4.0, 1.0),
    ((0.65, 0.4, 0.55), 2.5, 2.0),
    ((0.6, 0.65, 0.4), 3.0, -1.5),
)
# Garbage of the garbage cases: patches of pure noise at the lower edge of the mask, and clusters of
# voxels inside it that are off by 2π at 3 T and 20 ms: number, radius [mm], ppm.
PATCHES, WRAPS = (4, 5.0, 0.2), (20, 1.6, 0.39)
# Of the background case: an offset, and a slope in x and in z, each over half of the grid [ppm].
# Of the case whose mask reaches beyond the field: by how much [mm].
OFFSET, SLOPE, RIM_MM = 0.006, 0.01, 3.0
LOW_NOISE_PPM = 0.0007  # of the fine case, so that what its voxels hold is most of the error


@dataclass(frozen=True)
class Case:
    """One validation case.

    Attributes:
        subject: field, mask, magnitude and geometry.
        truth: χ (X, Y, Z) [ppm].
        labels: integer regions by the scorer's numbers, or None.
        lesions: integer map, 1 … per lesion, or None.
    """

    subject: Subject
    truth: np.ndarray
    labels: np.ndarray | None = None
    lesions: np.ndarray | None = None


@dataclass(frozen=True)
class Head:
    """χ [ppm], mask, magnitude (or None), labels (or None) and voxel size [mm] of a head."""

    chi: np.ndarray
    mask: np.ndarray
    magnitude: np.ndarray | None
    labels: np.ndarray | None
    voxel_size: tuple[float, float, float]


def subject_of(field, head: Head, b0_dir=(0.0, 0.0, 1.0)) -> Subject:
    """A head's field as the scan that the network is given."""
    return make_subject(field, head.mask, head.voxel_size, b0_dir, head.magnitude)


def simulate(head: Head, noise_ppm: float, seed: int, b0_dir=(0.0, 0.0, 1.0)) -> Case:
    """Field of a head with noise, and the head as truth."""
    field = forward_field(head.chi, head.voxel_size, b0_dir)
    rng = np.random.default_rng(seed)
    field = add_complex_noise(field, head.mask, head.magnitude, noise_ppm, rng)
    return Case(subject_of(field, head, b0_dir), head.chi, head.labels)


def disturb(head: Head, noise_ppm: float, seed: int, share: float = ERRORS) -> Case:
    """As `simulate`, with structured errors of `share` of the field's standard deviation."""
    mask, rng = head.mask, np.random.default_rng([seed, 1])
    field = forward_field(head.chi, head.voxel_size) * mask
    errors = add_model_errors(field, head.chi, mask, head.voxel_size, rng) - field
    field += errors * (share * field[mask].std() / errors[mask].std())
    field = add_complex_noise(field, mask, head.magnitude, noise_ppm, rng)
    return Case(subject_of(field, head), head.chi, head.labels)


def remove_background(head: Head, noise_ppm: float, seed: int, method: str) -> Case:
    """As `simulate`, with the errors of a background removal: "vsharp", "resharp" or "pdf"."""
    rng = np.random.default_rng([seed, 3])
    field = forward_field(head.chi, head.voxel_size)
    field += removal_error(head.chi, head.mask, head.voxel_size, rng=rng, method=method)
    field = add_complex_noise(field, head.mask, head.magnitude, noise_ppm, rng)
    return Case(subject_of(field, head), head.chi, head.labels)


def pair_slices(head: Head) -> Head:
    """The head on voxels twice as long in z: pairs of slices averaged."""
    even = head.chi.shape[2] // 2 * 2

    def halve(x):
        return None if x is None else (x[..., 0:even:2] + x[..., 1:even:2]) / np.float32(2)

    mask = halve(head.mask.astype(np.float32)) > 0.75
    labels = None if head.labels is None else head.labels[..., 0:even:2] * mask
    size = (*head.voxel_size[:2], 2 * head.voxel_size[2])
    return Head(halve(head.chi) * mask, mask, halve(head.magnitude), labels, size)


def add_lesions(head: Head) -> tuple[Head, np.ndarray]:
    """The head with `LESIONS`, and their numbers as a map."""
    inside = np.argwhere(head.mask)
    low, high = inside.min(0), inside.max(0)
    chi, where = head.chi.copy(), np.zeros(head.chi.shape, np.uint8)
    for number, (share, radius, value) in enumerate(LESIONS, 1):
        centre = np.rint(low + np.asarray(share) * (high - low))
        ball = sphere(chi.shape, centre, radius, head.voxel_size) & head.mask
        chi[ball] += value
        where[ball] = number
    return Head(chi, head.mask, head.magnitude, head.labels, head.voxel_size), where


def read_head(folder: Path, chi_name: str, magnitude_name: str | None = None) -> Head:
    """A head from NIfTI files: χ, `mask.nii.gz` and perhaps a magnitude."""
    chi = read_volume(folder / chi_name)
    mask, _ = read_mask(folder / "mask.nii.gz", like=chi)
    magnitude = read_volume(folder / magnitude_name).data if magnitude_name else None
    return Head(chi.data * mask, mask, magnitude, None, chi.voxel_size)


def drawn_head(seed: int, shape) -> Head:
    """A head of step 0 at 1 mm."""
    head = make_head(tuple(shape), (1.0, 1.0, 1.0), np.random.default_rng(seed))
    parts = (head[name] for name in ("chi", "mask", "magnitude", "labels"))
    return Head(*parts, (1.0, 1.0, 1.0))


def simulate_drawn(seed: int, config: dict) -> Case:
    """A head of step 0 at 1 mm as it is."""
    return simulate(drawn_head(seed, config["shape"]), config["noise_ppm"], config["seed"])


def lesion_case(head: Head, noise_ppm: float, seed: int) -> Case:
    """A head with lesions; their map goes along."""
    changed, where = add_lesions(head)
    case = simulate(changed, noise_ppm, seed)
    return Case(case.subject, case.truth, case.labels, where)


def fine_case(seed: int, shape, noise_ppm: float, lesions: bool) -> Case:
    """A head whose signal was made on half the voxel edge; no magnitude.

    With lesions, a haemorrhage and calcifications, the field in and beside them is wrong, as it is
    where the signal has decayed; without, where a voxel's phase is not that of its mean field.
    Nothing tells where.
    """
    scan = fine_scan(seed, shape, noise_ppm, lesions)
    strong = [LABELS["calcification"], LABELS["haemorrhage"]]
    places = sum(n * (scan["labels"] == label) for n, label in enumerate(strong, 1))
    subject = make_subject(scan["field"], scan["mask"], (1.0, 1.0, 1.0))
    where = places.astype(np.uint8) if lesions else None
    return Case(subject, scan["chi"], scan["labels"], where)


def with_field(case: Case, field) -> Case:
    """A case with another field [ppm] and without a magnitude, which would tell where it is bad."""
    subject = case.subject
    changed = make_subject(field, subject.mask, subject.voxel_size, subject.b0_dir)
    return Case(changed, case.truth, case.labels)


def add_garbage(case: Case, seed: int) -> Case:
    """A case whose field is garbage in places (`PATCHES`, `WRAPS`); no magnitude tells where."""
    subject, rng = case.subject, np.random.default_rng([seed, 2])
    field, mask, size = subject.field.copy(), subject.mask, subject.voxel_size
    depth = ndimage.distance_transform_edt(mask, sampling=size)
    low = np.argwhere((depth > 0) & (depth < 4))
    low = low[low[:, 2] < np.quantile(low[:, 2], 0.35)]
    number, radius, spread = PATCHES
    for centre in rng.choice(low, number, replace=False):
        ball = sphere(mask.shape, centre, radius, size) & mask
        field[ball] = rng.normal(0, spread, ball.sum())
    number, radius, jump = WRAPS
    for centre in rng.choice(np.argwhere(depth > 8), number, replace=False):
        field[sphere(mask.shape, centre, radius, size) & mask] += rng.choice((-jump, jump))
    return with_field(case, field)


def add_background(case: Case) -> Case:
    """A case with an offset and a slope in its field, as background removal may leave them."""
    x, _, z = (np.linspace(-1, 1, n) for n in case.truth.shape)
    course = OFFSET + SLOPE * x[:, None, None] - SLOPE * z
    return with_field(case, case.subject.field + course.astype(np.float32) * case.subject.mask)


def cut_rim(case: Case) -> Case:
    """A case whose field is zero at the mask's rim, as where the mask was not eroded with it."""
    subject = case.subject
    depth = ndimage.distance_transform_edt(subject.mask, sampling=subject.voxel_size)
    field = subject.field * (depth > RIM_MM)
    return with_field(case, field)


def variants(name: str, make: Callable[[], Head], config: dict) -> dict[str, Callable[[], Case]]:
    """Name → case of one head: as it is, and with one thing changed."""
    noise, seed = config["noise_ppm"], config["seed"]
    return {
        name: lambda: simulate(make(), noise, seed),
        f"{name}_noise0": lambda: simulate(make(), 0.0, seed),
        f"{name}_noise10": lambda: simulate(make(), 0.010, seed),
        f"{name}_errors": lambda: disturb(make(), noise, seed),
        f"{name}_lesions": lambda: lesion_case(make(), noise, seed),
        f"{name}_tilt20": lambda: simulate(make(), noise, seed, TILT),
        f"{name}_112mm": lambda: simulate(pair_slices(make()), noise, seed),
    }


def all_cases(config: dict) -> dict[str, Callable[[], Case]]:
    """Name → function that makes the case; those whose data is absent are left out.

    Args:
        config: of the score card: noise_ppm, heads, shape, seed, dataFolder.
    """
    data = Path(config["dataFolder"])
    cases = {}
    for number in config["heads"]:
        drawn = variants(f"head{number}", lambda n=number: drawn_head(n, config["shape"]), config)
        for kind, noise in (("voids", config["noise_ppm"]), ("fine", LOW_NOISE_PPM)):
            drawn[f"head{number}_{kind}"] = partial(
                fine_case, number, config["shape"], noise, lesions=kind == "voids"
            )
        for method in ("vsharp", "pdf"):
            drawn[f"head{number}_{method}"] = lambda n=number, method=method: remove_background(
                drawn_head(n, config["shape"]), config["noise_ppm"], config["seed"], method
            )
        plain = partial(simulate_drawn, number, config)
        drawn[f"head{number}_garbage"] = lambda made=plain: add_garbage(made(), config["seed"])
        drawn[f"head{number}_background"] = lambda made=plain: add_background(made())
        drawn[f"head{number}_rim"] = lambda made=plain: cut_rim(made())
        # One head shows what tilt, noise and lesions do; the others how much heads differ.
        cases |= drawn if not cases else {f"head{number}": drawn[f"head{number}"]}
    folder = data / "fansi_phantom"
    if (folder / "chi.nii.gz").is_file():
        fansi = variants("fansi", lambda: read_head(folder, "chi.nii.gz"), config)
        chosen = ("fansi", "fansi_tilt20", "fansi_noise10", "fansi_errors")
        cases |= {name: fansi[name] for name in chosen}
    challenge = data / "qsm2016"
    if (challenge / "chi_cosmos.nii.gz").is_file():

        def cosmos():
            return read_head(challenge, "chi_cosmos.nii.gz", "magnitude.nii.gz")

        cases |= variants("cosmos", cosmos, config)
        cases["measured2016"] = lambda: measured(cosmos(), challenge)
        cases["measured2016_garbage"] = lambda: add_garbage(
            measured(cosmos(), challenge), config["seed"]
        )
    return cases


def measured(head: Head, folder: Path) -> Case:
    """The measured single-orientation field of 2016 against COSMOS."""
    field = read_volume(folder / "phs_tissue.nii.gz").data * head.mask
    return Case(subject_of(field, head), head.chi)
