"""What an output was made with: hashes of input files, and the configs of the steps before.

Kept in the config that a step saves beside its output, they refuse a rerun on what has only the
same name.
"""

import hashlib
import json
from pathlib import Path

CONFIGS = {"step1": "config.json", "step2": "config_fields.json"}  # beside the maps' folders
# Keys of these that change no map.
FREE = {
    "step1": ("number", "first", "run", "dstFolder", "processes"),
    "step2": ("device", "run", "srcFolder", "processes"),
}


def file_hash(path) -> str:
    """SHA-256 of a file, as hexadecimal text."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def file_hashes(**files) -> dict[str, str]:
    """`name_sha256` of every file that is given; None is left out."""
    return {f"{name}_sha256": file_hash(path) for name, path in files.items() if path}


def listed(path: Path) -> tuple[Path, str]:
    """`SHA256SUMS` beside a file, and its text with the file's hash in it; the other lines stay."""
    sums = path.parent / "SHA256SUMS"
    lines = sums.read_text().splitlines() if sums.is_file() else []
    lines = [line for line in lines if line.split()[1:] != [path.name]]
    lines.append(f"{file_hash(path)}  {path.name}")
    return sums, "\n".join(sorted(lines, key=lambda line: line.split()[1])) + "\n"


def made_with(source: Path) -> dict:
    """Keys that decided the maps and fields below a folder: `step1.seed`, `step2.noise_ppm`, …"""
    keys = {}
    for step, name in CONFIGS.items():
        if (source / name).is_file():
            config = json.loads((source / name).read_text())
            keys |= {f"{step}.{k}": v for k, v in config.items() if k not in FREE[step]}
    return keys
