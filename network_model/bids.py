"""Finding the scans of a BIDS study, and the files that make a folder a BIDS derivative.

Files are found by patterns in the shell's manner, matched against the path below the study's
folder; `*` also matches across folders. Which mask belongs to which field is told by the entities
of their names (`sub-`, `ses-`, `acq-`, `run-` …), then by how close they lie, then by the order of
the patterns. Where that leaves several, none is taken.
"""

import dataclasses
import fnmatch
import itertools
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

from network_model.sidecar import TOOL, tool_version
from training_data.nifti import SUFFIXES

BIDS_VERSION = "1.10.0"
# Entities of a Chimap's name in the order of the specification; others are dropped.
ENTITIES = ("sub", "ses", "acq", "ce", "rec", "run", "space", "chunk")
EXACT = ("sub", "ses", "space")  # must be the same, also where one of the two has none
# Words of a mask's name that say it is none of the brain.
OTHER_REGIONS = {"lesion", "lesions", "csf", "ventricle", "ventricles", "wm", "gm"}
OTHER_REGIONS |= {"vessel", "vessels", "vein", "veins"}
README = """{tool} {version}

Quantitative susceptibility maps (suffix Chimap) in ppm, one per local field that was found in the
study; each one's JSON sidecar names the files it was made from, the network's weights by their
SHA-256, every step with its numeric parameters, the reference region, the direction of B0, the
misfit of the field before and after, and warnings.

summary.csv lists all scans with their state. reports/ holds a page for each map, if asked for.
Voxels outside the brain mask are zero.
"""
IGNORED = "summary.csv\nreports\n"  # with a slash the validator still objects to the folder


@dataclass(frozen=True)
class ScanFiles:
    """The files of one scan.

    Attributes:
        name: its entities, e.g. `sub-01_ses-2_run-1`.
        field: local field; mask, labels, reference: or None where nothing matches.
        magnitudes: echoes in their order, or one file, or none.
        rivals: further fields that would give a map of the same name.
        several: kind → files that suit it equally well; it has no file then.
    """

    name: str
    field: Path
    mask: Path | None = None
    magnitudes: tuple[Path, ...] = ()
    labels: Path | None = None
    reference: Path | None = None
    rivals: tuple[Path, ...] = ()
    several: dict[str, list[Path]] = dataclasses.field(default_factory=dict)

    def output(self, out: Path) -> Path:
        """Where its map goes below a derivatives folder."""
        folders = [part for part in self.name.split("_") if part.startswith(("sub-", "ses-"))]
        return Path(out).joinpath(*folders, "anat", f"{self.name}_Chimap.nii.gz")


def entities(path: Path) -> dict[str, str]:
    """Entities of a file: of its own name, and `sub-`, `ses-` of the folders it is in."""
    found = {}
    for part in path.parts[:-1]:
        match = re.fullmatch(r"(sub|ses)-([A-Za-z0-9]+)", part)
        found |= {match[1]: match[2]} if match else {}
    return found | dict(re.findall(r"(?:^|_)([a-zA-Z]+)-([A-Za-z0-9]+)(?=_|\.)", path.name))


def list_images(study: Path, out: Path) -> list[Path]:
    """NIfTI files below a study as relative paths, sorted; without hidden folders and `out`."""
    found, out = [], Path(out).resolve()
    for folder, folders, files in os.walk(study, followlinks=True):
        here = Path(folder)
        above = {here.resolve(), *here.resolve().parents, out}  # a link to one of them has no end
        folders[:] = [
            f for f in folders if not f.startswith(".") and (here / f).resolve() not in above
        ]
        names = [f for f in files if f.endswith(SUFFIXES) and not f.startswith(".")]
        found += [(here / f).relative_to(study) for f in names]
    return sorted(found)


def find_scans(study, out, patterns: dict[str, list[str]]) -> list[ScanFiles]:
    """Every scan of a study that has a local field.

    Args:
        study: folder with raw data, and with the local fields, e.g. below derivatives/.
        out: folder of the maps; nothing is searched in it.
        patterns: "field", "mask", "magnitude", "labels", "reference" → patterns, best first.

    Raises:
        ValueError: no such folder, or no local field in it.
    """
    study = Path(study)
    if not study.is_dir():
        raise ValueError(f"{study}: no such folder; expected a BIDS study")
    images = list_images(study, out)
    of = {kind: _matches(images, globs) for kind, globs in patterns.items()}
    if "mask" in of:
        asked = " ".join(patterns["mask"])
        of["mask"] = {p: k for p, k in of["mask"].items() if _may_be_brain(p, asked)}
    # SEPIA's mask of the local field is called …_mask_localfield.
    fields = [f for f in of["field"] if f not in of.get("mask", {})]
    by_name = {}
    for field in fields:
        found = entities(field)
        if "sub" in found:
            name = "_".join(f"{e}-{found[e]}" for e in ENTITIES if e in found)
            by_name.setdefault(name, []).append(field)
    if not by_name:
        raise ValueError(
            f"{study}: found no local field among {len(images)} NIfTI files; expected names such "
            f"as {', '.join(patterns['field'])} with a sub- entity; change fieldPatterns"
        )
    return [_scan_files(study, name, found, of) for name, found in sorted(by_name.items())]


def _matches(images, globs) -> dict[Path, int]:
    """Images that match any of the patterns → the number of the first that does."""
    found = {}
    for image in images:
        hits = [k for k, g in enumerate(globs) if fnmatch.fnmatchcase(image.as_posix(), g)]
        if hits:
            found[image] = hits[0]
    return found


def _scan_files(study: Path, name: str, fields: list[Path], of: dict) -> ScanFiles:
    first, *rivals = fields
    best = {kind: _best(first, of.get(kind, {})) for kind in of if kind != "field"}
    several = {
        k: v for k, v in best.items()
        if len(v) > 1 and (k != "magnitude" or any(_but_echo(p) != _but_echo(v[0]) for p in v))
    }  # fmt: skip
    best = {kind: found for kind, found in best.items() if kind not in several}
    one = {k: study / v[0] for k, v in best.items() if v and k != "magnitude"}
    magnitudes = tuple(study / m for m in best.get("magnitude", []))
    return ScanFiles(
        name, study / first, magnitudes=magnitudes, rivals=tuple(study / r for r in rivals),
        several={k: [study / p for p in v] for k, v in several.items()}, **one,
    )  # fmt: skip


def _may_be_brain(mask: Path, asked: str) -> bool:
    """Whether a mask is not named after another region, unless the patterns ask for such names."""
    have = entities(mask)
    regions = [(e, have[e]) for e in ("label", "desc") if e in have]
    words = re.split(r"[_.]", mask.name.lower())
    if any(word in OTHER_REGIONS and word not in asked.lower() for word in words):
        return False
    return all(r.lower() == "brain" or f"{e}-{r}" in asked for e, r in regions)


def _best(field: Path, candidates: dict[Path, int]) -> list[Path]:
    """Candidates that suit a field best, echoes in their order; empty if none does."""
    wanted = entities(field)
    ranked = {}
    for path, order in candidates.items():
        rank = _rank(field, wanted, path, order)
        if rank is not None:
            ranked.setdefault(rank, []).append(path)
    return sorted(ranked[max(ranked)], key=_echo) if ranked else []


def _rank(field: Path, wanted: dict, path: Path, order: int):
    """How well a file suits a field, to be compared; None if it is another scan's."""
    have = entities(path)
    if any(have.get(e) != wanted.get(e) for e in EXACT):
        return None
    others = [e for e in ENTITIES if e not in EXACT]
    if any(e in have and e in wanted and have[e] != wanted[e] for e in others):
        return None
    differing = sum((e in have) != (e in wanted) for e in others)
    pairs = zip(field.parts[:-1], path.parts[:-1], strict=False)
    common = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))
    return (-differing, common, -order)


def _but_echo(path: Path) -> dict[str, str]:
    return {e: value for e, value in entities(path).items() if e != "echo"}


def _echo(path: Path):
    number = entities(path).get("echo", "")
    return int(number) if number.isdigit() else 0, path


def check_owner(out) -> None:
    """Raise a ValueError where a folder's description or README is that of another data set."""
    path = Path(out) / "dataset_description.json"
    if not path.is_file():
        if (other := Path(out) / "README").is_file():
            raise ValueError(f"{other}: is not of {TOOL}; choose a folder of its own with --out")
        return
    try:
        makers = json.loads(path.read_text(encoding="utf-8-sig"))["GeneratedBy"]
        names = [maker["Name"] for maker in makers]
    except (ValueError, OSError, KeyError, TypeError):
        names = []
    if TOOL not in names:
        raise ValueError(
            f"{path}: is that of another data set, by {', '.join(map(str, names)) or 'hand'}; "
            f"choose a folder of its own with --out, such as derivatives/{TOOL.lower()}"
        )


def dataset_files(study, out) -> dict[str, str]:
    """Name → text of the files that make `out` a BIDS derivative of `study`."""
    link = Path(os.path.relpath(Path(study).resolve(), Path(out).resolve())).as_posix()
    description = {
        "Name": f"{TOOL} susceptibility maps",
        "BIDSVersion": BIDS_VERSION,
        "DatasetType": "derivative",
        "GeneratedBy": [
            {
                "Name": TOOL,
                "Version": tool_version(),
                "Description": "Quantitative susceptibility maps by a neural network",
            }
        ],
        "SourceDatasets": [{"URL": link}],
        "DatasetLinks": {"study": link},
    }
    return {
        "dataset_description.json": json.dumps(description, indent=1) + "\n",
        "README": README.format(tool=TOOL, version=tool_version()),
        ".bidsignore": IGNORED,
    }


def source_uri(study, path) -> str:
    """BIDS URI of a file of the study, by the link that `dataset_files` declares."""
    return f"bids:study:{Path(path).relative_to(study).as_posix()}"
