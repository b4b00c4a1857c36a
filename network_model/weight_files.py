"""Files of weights by their SHA-256: a file, and those that its specification names beside it.

Without Keras, so that a file that is missing or damaged is refused at once.
"""

import json
from pathlib import Path

import h5py

from training_data.channels import FIRST
from training_data.origin import file_hash


def check_weights(path) -> str:
    """SHA-256 of a weights file, compared with `SHA256SUMS` beside it where that lists the file.

    Raises:
        ValueError: the file is missing, not the one that was listed, or no network.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path}: no such weights; name a file that step 4 wrote, or fetch them")
    digest = file_hash(path)
    sums = path.parent / "SHA256SUMS"
    lines = [line.split() for line in sums.read_text().splitlines()] if sums.is_file() else []
    listed = {words[1].lstrip("*"): words[0] for words in lines if len(words) == 2}
    if listed.get(path.name, digest) != digest:
        raise ValueError(f"{path}: damaged or changed, its SHA-256 is not that of {sums}")
    try:
        with h5py.File(path) as file:
            file.attrs["spec"]
    except (OSError, KeyError) as error:
        raise ValueError(f"{path}: not a weights file of this project ({error})") from error
    return digest


def weights_hashes(path) -> dict[Path, str]:
    """File → SHA-256 of a network, and of those that its specification names beside it.

    Raises:
        ValueError: as `check_weights`; or the network corrects the map of one in another file.
    """
    hashes = _hashes_beside(Path(path))
    with h5py.File(path) as file:
        spec = json.loads(file.attrs["spec"])
        if FIRST in spec["inputs"] and FIRST not in file and not spec.get("below_file"):
            raise ValueError(
                f"{path}: holds a network that corrects the map of another file's, and not that "
                "one; name the file that names this one"
            )
    return hashes


def _hashes_beside(path: Path) -> dict[Path, str]:
    """`check_weights` of a file, of those that it names, of those that they name."""
    hashes = {path: check_weights(path)}
    with h5py.File(path) as file:
        spec = json.loads(file.attrs["spec"])
    for key, name in spec.items():
        if key.endswith("_file") and name:
            hashes |= _hashes_beside(path.with_name(name))
    return hashes


def named_hashes(name: str, path) -> dict[str, str]:
    """`name_sha256` of a network's file, and `<stem>_sha256` of each that it names beside it.

    Raises:
        ValueError: as `weights_hashes`.
    """
    (_, digest), *beside = weights_hashes(path).items()
    return {f"{name}_sha256": digest} | {f"{p.stem}_sha256": of_it for p, of_it in beside}
