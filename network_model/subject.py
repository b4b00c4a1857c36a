"""One subject's scan as the network sees it: field in ppm, mask and weights on working axes.

Working axes are the file's axes flipped and permuted closest to right, anterior, superior, so that
sagittal-, coronal- and axial-stored copies of one scan give the same map.
"""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from nibabel.orientations import io_orientation

from network_model.mending import look_through
from network_model.sidecar import read_sidecar, sidecar_path
from training_data.dipole import GAMMA_MHZ_PER_T
from training_data.nifti import (
    Volume,
    b0_direction,
    check_same_grid,
    degrees_between,
    from_canonical,
    read_mask,
    read_volume,
    scanner_affine,
    to_canonical,
    write_volume,
)
from training_data.origin import file_hashes
from training_data.volume import bounding_box

UNITS = ("ppm", "Hz", "rad")
NEEDED_BY = {"b0": ("Hz", "rad"), "te": ("rad",)}  # units that need the number
MIN_EXTENT = 4  # voxels of mask along every axis: fewer hold no dipole pattern to invert
LARGEST_PPM = 1e6  # of a field in the mask: a fill value, whatever unit was mistaken
CONTRARY_DEG = 10.0  # between B0 of a sidecar and of the affine, from which on one of them is wrong
FEW_SOFT = 0.001  # of a mask's voxels that may be between the values of its labels
FEW_NEGATIVE = 0.01  # of a magnitude's voxels that may be below zero, where interpolation rang
DEFAULT_ECHO = 1  # of a 4-D magnitude, from 0: the second echo, as the 2020 release took


@dataclass(frozen=True)
class Scan:
    """What the files of a scan do not say for themselves.

    Attributes:
        unit: of the field: "ppm", "Hz" or "rad".
        b0: field strength [T], for Hz and rad; None: `MagneticFieldStrength` of the JSON sidecar.
        te: echo time [s], for rad; None: `EchoTime` of the JSON sidecar.
        sign: −1 for a field of the opposite convention (GE, for one).
        echo: index of a 4-D magnitude's echo, from 0; None: the second one.
        b0_dir: direction of B0 in voxel axes of the file; None: `B0_dir` of the field's JSON
            sidecar, else scanner z of the affine.
    """

    unit: str = "ppm"
    b0: float | None = None
    te: float | None = None
    sign: int = 1
    echo: int | None = None
    b0_dir: tuple[float, float, float] | None = None

    @classmethod
    def from_config(cls, config: dict) -> "Scan":
        """The scan's keys out of a step's config."""
        return cls(**{name: config[name] for name in cls.__dataclass_fields__ if name in config})


@dataclass
class Subject:
    """A scan on working axes.

    Attributes:
        field: local field, (X, Y, Z) float32 [ppm], zero outside the mask.
        mask: (X, Y, Z) bool.
        weight: data weights, (X, Y, Z) float32 in [0, 1]: magnitude over its maximum in the mask,
            or the mask when there is no magnitude.
        voxel_size: 3 floats [mm].
        b0_dir: direction of B0 in working voxel axes, a unit vector.
        has_magnitude: whether `weight` comes from a magnitude.
        grid: Volume of the field as read from its file, or None for a subject made of arrays.
        b0: field strength [T] if known; te: echo time [s] if known.
        echo: of a 4-D magnitude, from 0, or None.
        notes: what was read and assumed, a line each, for the log.
        warnings: what the user ought to look at, a line each.
    """

    field: np.ndarray
    mask: np.ndarray
    weight: np.ndarray
    voxel_size: tuple[float, float, float]
    b0_dir: np.ndarray
    has_magnitude: bool = False
    grid: Volume | None = None
    b0: float | None = None
    te: float | None = None
    echo: int | None = None
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def magnitude(self) -> np.ndarray | None:
        """Magnitude over its maximum in the mask, (X, Y, Z), or None."""
        return self.weight if self.has_magnitude else None

    @property
    def file_b0_dir(self) -> np.ndarray:
        """Direction of B0 in voxel axes of the field's file."""
        if self.grid is None:
            return self.b0_dir
        return np.array([f * self.b0_dir[int(a)] for a, f in io_orientation(self.grid.affine)])

    def to_file_axes(self, data) -> np.ndarray:
        """An array (X, Y, Z) of working axes on the axes of the field's file."""
        return data if self.grid is None else from_canonical(data, self.grid)

    def save(self, path, data) -> None:
        """Write an array of working axes as NIfTI on the grid and affine of the field's file."""
        write_volume(path, self.to_file_axes(data), like=self.grid)


def make_subject(local_field, mask, voxel_size, b0_dir=(0, 0, 1), magnitude=None) -> Subject:
    """A subject from arrays that are on working axes already.

    Args:
        local_field: (X, Y, Z) [ppm]; mask: (X, Y, Z), non-zero = brain.
        voxel_size: 3 floats [mm]; b0_dir: direction of B0 in voxel axes, any length.
        magnitude: (X, Y, Z), any unit, or None.

    Raises:
        ValueError: shapes that differ, values not finite, a mask that is empty or too thin, a field
            that is zero in the mask, a bad direction or magnitude.
    """
    mask = np.asarray(mask) != 0
    if np.shape(local_field) != mask.shape or mask.ndim != 3:
        raise ValueError(
            f"field {np.shape(local_field)} and mask {mask.shape}: expected one 3-D shape"
        )
    _check_mask(mask, "mask")
    local_field = np.where(mask, local_field, 0).astype(np.float32)
    _check_field(local_field, "field")
    weight = mask.astype(np.float32)
    if magnitude is not None:
        weight = _weight(np.asarray(magnitude), mask, "magnitude")
    size = tuple(float(v) for v in voxel_size)
    unit_b0 = unit_vector(b0_dir, "b0_dir")
    return Subject(local_field, mask, weight, size, unit_b0, magnitude is not None)


def load_subject(field_file, mask_file, magnitude_file=None, scan: Scan | None = None) -> Subject:
    """Read a scan and bring it to working axes and ppm.

    Args:
        field_file: local field, NIfTI; a JSON file of the same name beside it may hold `B0_dir`,
            `MagneticFieldStrength` [T] and `EchoTime` [s].
        mask_file: brain mask on the same grid, non-zero = brain.
        magnitude_file: magnitude, 3-D or 4-D with echoes last, on the same grid; or None.
        scan: unit, B0, TE, sign, echo and B0 direction.

    Raises:
        ValueError: a file, value or combination that cannot be used; one line with the remedy.
    """
    scan = scan or Scan()
    sidecar = read_sidecar(field_file)
    volume = read_volume(field_file, finite=False)
    mask, mask_volume = read_mask(mask_file, like=volume)
    _check_mask(mask, mask_file)
    ppm, b0, te, notes = _to_ppm(volume, scan, sidecar)
    b0_dir, source, doubt = _b0_dir(volume, scan, sidecar)
    weight, index, note = _read_weight(magnitude_file, volume, mask, scan.echo)
    notes += [note, f"B0 direction {_short(b0_dir)} in voxel axes, from {source}"]
    ppm = np.where(mask, ppm, 0).astype(np.float32)
    _check_field(ppm, field_file)

    working = to_canonical(volume)
    turn = [to_canonical(_with_data(volume, x)).data for x in (ppm, mask, weight)]
    subject = Subject(
        turn[0], turn[1].astype(bool), turn[2], working.voxel_size,
        _to_working_axes(b0_dir, volume.affine), magnitude_file is not None, volume, b0, te, index,
        notes,
    )  # fmt: skip
    subject.warnings += [doubt] if doubt else []
    if mask.all():
        subject.warnings.append(f"{mask_volume.path}: covers the whole volume; is it a brain mask?")
    subject.warnings += _soft_mask(mask_volume)
    return subject


def subject_from_config(config: dict, tag: str = "") -> Subject:
    """The subject that a step's config names; its notes and warnings are printed after `tag`.

    With the key `mend`, its field is looked through (`mending.look_through`) and replaced.

    Raises:
        ValueError: as `load_subject`; also a config without field or mask.
    """
    for key in ("fieldFile", "maskFile"):
        if not config[key]:
            raise ValueError(f"{key}: not set; name the subject's NIfTI file")
    files = (config["fieldFile"], config["maskFile"], config["magnitudeFile"])
    subject = load_subject(*files, Scan.from_config(config))
    if config["mend"]:
        subject, *_, doubts = look_through(subject)
        subject.warnings.extend(doubts)
    if tag:
        lines = subject.notes + [f"warning: {w}" for w in subject.warnings]
        print("\n".join(f"{tag} {line}" for line in lines), flush=True)
    return subject


def scan_hashes(config: dict) -> dict[str, str]:
    """SHA-256 of the files that a step's config names of a scan, and of the field's sidecar."""
    files = {name: config[f"{name}File"] for name in ("field", "mask", "magnitude")}
    if files["field"] and (beside := sidecar_path(files["field"])).is_file():
        files["sidecar"] = beside
    return file_hashes(**files)


def unit_vector(direction, name: str) -> np.ndarray:
    """A direction of three numbers with length one; ValueError if it has none."""
    try:
        vector = np.asarray(direction, float)
    except (TypeError, ValueError):
        vector = np.zeros(0)
    if vector.shape != (3,) or not np.isfinite(vector).all() or np.linalg.norm(vector) < 1e-6:
        raise ValueError(f"{name} {direction!r}: expected three numbers, not all zero")
    return vector / np.linalg.norm(vector)


def _with_data(volume: Volume, data) -> Volume:
    return Volume(data, volume.affine, volume.voxel_size, volume.header, volume.path)


def _short(vector) -> str:
    return "(" + ", ".join(f"{v:.3f}" for v in vector) + ")"


def _check_mask(mask, name) -> None:
    """Raise a ValueError unless a mask is there and thick enough to invert anything."""
    extent = [s.stop - s.start for s in bounding_box(mask)]
    if min(extent) < MIN_EXTENT:
        raise ValueError(
            f"{name}: the mask spans {'×'.join(map(str, extent))} voxels; expected at least "
            f"{MIN_EXTENT} along every axis: a dipole inversion needs a volume"
        )
    if mask.sum() < MIN_EXTENT**3:
        raise ValueError(
            f"{name}: the mask has {mask.sum()} voxels; expected at least {MIN_EXTENT**3}: a "
            "dipole inversion needs a volume"
        )


def _check_field(masked_field, name) -> None:
    if not np.isfinite(masked_field).all():
        raise ValueError(f"{name}: the field is NaN or infinite inside the mask; mask those out")
    if (beyond := np.abs(masked_field) > LARGEST_PPM).any():
        largest = np.abs(masked_field).max()
        raise ValueError(
            f"{name}: expected a field of at most {LARGEST_PPM:g} ppm inside the mask, found "
            f"{beyond.sum()} voxels beyond, the largest {largest:.3g}: fill values? mask those out"
        )
    if not masked_field.any():
        raise ValueError(f"{name}: the field is zero everywhere in the mask; is it the right file?")


def _to_ppm(volume: Volume, scan: Scan, sidecar: dict):
    """Field in ppm with the sign turned, B0 [T] or None, TE [s] or None, and notes."""
    notes = []
    b0 = _number("b0", scan, sidecar, "MagneticFieldStrength", (0.01, 30, "T"), notes)
    te = _number("te", scan, sidecar, "EchoTime", (1e-5, 0.5, "s"), notes)
    if scan.sign not in (1, -1):
        raise ValueError(f"sign {scan.sign!r}: expected 1 or -1")
    if scan.unit not in UNITS:
        raise ValueError(f"unit {scan.unit!r}: expected one of {', '.join(UNITS)}")
    for name, value in (("b0", b0), ("te", te)):
        if scan.unit in NEEDED_BY[name] and value is None:
            meaning = "field strength in T" if name == "b0" else "echo time in s"
            raise ValueError(f"unit {scan.unit} needs {name}, the {meaning}: give it")
    per_ppm = {
        "ppm": lambda: 1.0,
        "Hz": lambda: GAMMA_MHZ_PER_T * b0,
        "rad": lambda: 2 * np.pi * GAMMA_MHZ_PER_T * b0 * te,
    }[scan.unit]()
    note = f"field in {scan.unit}" + (f", {per_ppm:.4g} per ppm" if scan.unit != "ppm" else "")
    notes.insert(0, note + (", sign turned" if scan.sign < 0 else ""))
    return volume.data * np.float32(scan.sign / per_ppm), b0, te, notes


def _number(name: str, scan: Scan, sidecar: dict, key: str, limits, notes: list[str]):
    """A positive number within limits, from the user or else the sidecar; None if neither.

    What a sidecar says wrongly is left out, with a note, where the field's unit does not need it.
    """
    low, high, unit = limits
    value, where = getattr(scan, name), name
    if value is None:
        value, where = sidecar.get(key), f"{key} in {sidecar.get('path')}"
        if value is None or isinstance(value, list):  # several echoes have no one TE
            return None
    if isinstance(value, (int, float)) and not isinstance(value, bool) and low <= value <= high:
        return float(value)
    problem = f"{where}: {value!r}, expected a number of {unit} from {low} to {high}"
    if where == name or scan.unit in NEEDED_BY[name]:
        raise ValueError(problem)
    notes.append(f"{problem}; not needed, left out")
    return None


def _b0_dir(volume: Volume, scan: Scan, sidecar: dict):
    """Direction of B0 in voxel axes of the file, where it is from, and a doubt about it, or ""."""
    if scan.b0_dir is not None:
        return unit_vector(scan.b0_dir, "b0_dir"), "the user", ""
    affine, doubt = scanner_affine(volume)
    along = b0_direction(affine)
    if "B0_dir" not in sidecar:
        remedy = f"; B0 is taken to be {_short(along)} in voxel axes: --b0-dir (key b0_dir) decides"
        return along, "the affine", f"{volume.path}: {doubt}{remedy}" if doubt else ""
    told = unit_vector(sidecar["B0_dir"], f"B0_dir in {sidecar['path']}")
    apart = degrees_between(told, along)
    name = Path(sidecar["path"]).name
    if doubt or apart <= CONTRARY_DEG:
        return told, name, ""
    doubt = (
        f"B0_dir in {sidecar['path']} is {apart:.0f}° from scanner z of the affine, "
        f"{_short(along)} in voxel axes: is one of them wrong? --b0-dir (key b0_dir) decides"
    )
    return told, name, doubt


def _soft_mask(mask: Volume) -> list[str]:
    """A warning where a mask holds shares of brain instead of labels."""
    inside = mask.data[mask.data != 0]
    low = int(np.count_nonzero(inside < 0.5 * inside.max()))
    if low <= FEW_SOFT * inside.size or (inside == np.rint(inside)).all():
        return []
    return [
        f"{mask.path}: {low} of its {inside.size} non-zero voxels are below half of the largest; "
        "all of them are taken for brain: threshold a mask of probabilities first"
    ]


def _to_working_axes(direction, affine) -> np.ndarray:
    """A direction in voxel axes of a file in the axes of its `to_canonical` volume."""
    out = np.zeros(3)
    for value, (axis, flip) in zip(direction, io_orientation(affine), strict=True):
        out[int(axis)] = flip * value
    return out


def _read_weight(path, like: Volume, mask, echo):
    """Weights (X, Y, Z) on the file's axes, their echo or None, and a note on their origin."""
    if path is None:
        if echo is not None:
            raise ValueError(f"echo {echo!r}: is one of a magnitude's, and there is none; give it")
        return mask.astype(np.float32), None, "no magnitude: weight = mask"
    volume = read_volume(path, (3, 4), finite=False)
    check_same_grid(like, volume)
    data, index, note = volume.data, None, f"weight: {Path(path).name}"
    if data.ndim == 4:
        echoes = data.shape[3]
        index = min(DEFAULT_ECHO, echoes - 1) if echo is None else echo
        if not isinstance(index, int) or not 0 <= index < echoes:
            raise ValueError(f"{path}: has echoes 0 to {echoes - 1}, asked for echo {index!r}")
        data, note = data[..., index], f"{note}, echo {index} of 0 to {echoes - 1}"
    elif echo not in (None, 0):
        raise ValueError(f"{path}: a 3-D magnitude has only echo 0, asked for echo {echo!r}")
    return _weight(data, mask, path), index, note


def _weight(magnitude, mask, name) -> np.ndarray:
    """Magnitude over its maximum in the mask, zero outside; float32 in [0, 1]."""
    if magnitude.shape != mask.shape:
        raise ValueError(f"{name}: shape {magnitude.shape}, expected the mask's {mask.shape}")
    inside = magnitude[mask]
    if not np.isfinite(inside).all():
        number = int(np.count_nonzero(~np.isfinite(inside)))
        raise ValueError(
            f"{name}: {number} voxels inside the mask are NaN or infinite; set them to 0"
        )
    negative = np.count_nonzero(inside < 0) / inside.size
    if negative > FEW_NEGATIVE or np.median(inside) <= 0:
        raise ValueError(
            f"{name}: expected magnitudes >= 0 that are positive in most of the mask, found "
            f"{inside.min():.3g} to {inside.max():.3g}; is it a phase image, or of another scan?"
        )
    return np.where(mask, np.maximum(magnitude, 0) / inside.max(), 0).astype(np.float32)
