"""JSON sidecars: what one says of a field, and what the map's own one has to say.

The keys of the map's sidecar are those that the 2024 consensus (Bilgic et al.,
doi:10.1002/mrm.30006) asks to be reported: tool, version, unit, reference, parameters of each step.
"""

import json
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from training_data.nifti import SUFFIXES

TOOL = "QSMInvNet"


def sidecar_path(path) -> Path:
    """The JSON file that belongs to a NIfTI file: the same name with another suffix."""
    path = Path(path)
    suffix = next((s for s in reversed(SUFFIXES) if path.name.endswith(s)), path.suffix)
    return path.with_name(path.name.removesuffix(suffix) + ".json")


def read_sidecar(path) -> dict:
    """Content of a NIfTI file's JSON sidecar with its own `path`; empty where there is none.

    Raises:
        ValueError: the sidecar is not a JSON object.
    """
    path = sidecar_path(path)
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))  # Windows writes a mark
    except (ValueError, OSError, RecursionError) as error:
        raise ValueError(f"{path}: not readable as JSON ({error}); mend or remove it") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected a JSON object, found {type(content).__name__}")
    return {**content, "path": str(path)}


def sidecar_number(sidecar: dict, key: str) -> float | None:
    """A number of a sidecar; None where it is missing or a list (several echoes have no one TE)."""
    value = sidecar.get(key)
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def tool_version() -> str:
    """Version of the installed package."""
    try:
        return version("qsminvnet")
    except PackageNotFoundError:
        return "unknown"


def describe(options, subject, weights_hash: str, steps: list[dict]) -> dict:
    """What a map's sidecar says of its making: tool, files, units, geometry, steps.

    Args:
        options: `reconstruction.Options`.
        subject: the `Subject`; directions and sizes are given in the axes of its file.
        weights_hash: SHA-256 of the weights.
        steps: name and numeric parameters of each step.
    """
    files = {"Field": options.field_file, "Mask": options.mask_file}
    files |= {"Magnitude": options.magnitude_file} if options.magnitude_file else {}
    content = {
        "Description": "Quantitative susceptibility map by a neural network",
        "Tool": TOOL,
        "Version": tool_version(),
        "Weights": Path(options.weights_file).name,
        "WeightsSHA256": weights_hash,
        "Units": "ppm",
        "ReferenceRegion": options.reference,
        **{name: Path(path).name for name, path in files.items()},
        "FieldUnits": options.scan.unit,
        "FieldSign": options.scan.sign,
        "MagnitudeEcho": subject.echo,
        "MagneticFieldStrength": subject.b0,
        "EchoTime": subject.te,
        "B0_dir": [round(float(b), 6) for b in subject.file_b0_dir],
        "VoxelSize": [round(float(v), 6) for v in subject.grid.voxel_size],
        "Mend": options.mend,
        "Align": options.align,
        "Seed": options.seed,
        "Steps": steps,
    }
    return {key: value for key, value in content.items() if value is not None}
