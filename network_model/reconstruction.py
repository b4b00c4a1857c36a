"""From one scan's files to a χ map: what step 6 does for one scan and a cohort for each.

Bad input is refused before Keras is loaded, and nothing is written before everything is computed.
"""

import contextlib
import dataclasses
import importlib.util
import json
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from network_model.align import check_choice, views_of
from network_model.mending import look_through
from network_model.plausibility import noise_note, scan_warnings
from network_model.refine import check_options, default_options, refine_image
from network_model.sidecar import describe, sidecar_path
from network_model.subject import Scan, Subject, load_subject, unit_vector
from network_model.tuning import Tuning
from network_model.weight_files import named_hashes
from training_data.dipole import field_inside
from training_data.nifti import SUFFIXES, check_same_grid, read_mask, read_volume, to_canonical

REGIONS = ("none", "brain")  # references that are no file


@dataclass(frozen=True)
class Options:
    """One reconstruction.

    Attributes:
        field_file, mask_file, magnitude_file, output: NIfTI files; the magnitude may be None.
        weights_file: network.
        scan: unit, B0, TE, sign, echo and B0 direction.
        mirrors: whether the network's map is the mean over the scan's eight mirror images.
        memory_gb: tiles where a forward pass needs more [GiB]; None: no limit.
        align, align_voxel_mm: see `align.views_of`.
        reference: "none", "brain" or a mask file whose mean is subtracted.
        finetune: iterations of fine-tuning; tuning: keywords of `Tuning`.
        mend: whether field that no source explains is left out (`mending.trusted_field`).
        refine: whether the map is refined; refine_options: keywords of `refine.refine`.
        report: HTML file to write, or None; labels_file: regions for its table, or None.
        seed: of Keras.
    """

    field_file: str
    mask_file: str
    output: str
    weights_file: str
    magnitude_file: str | None = None
    scan: Scan = Scan()  # noqa: RUF009, frozen
    mirrors: bool = True
    memory_gb: float | None = None
    align: str = "auto"
    align_voxel_mm: float = 1.0
    reference: str = "none"
    finetune: int = 0
    tuning: dict = field(default_factory=dict)
    mend: bool = True
    refine: bool = True
    refine_options: dict = field(default_factory=dict)
    report: str | None = None
    labels_file: str | None = None
    seed: int = 0


@dataclass
class Result:
    """What a reconstruction gives; volumes on working axes, (X, Y, Z) float32 [ppm].

    Attributes:
        subject: the scan.
        chi: final map, referenced.
        chi_network: the plain network's map, before fine-tuning, refinement and reference.
        residual: field − D ∗ χ of the final map, without background that was taken off;
            residual_network: of the plain network's.
        parameters: content of the map's JSON sidecar.
        warnings: what the user ought to look at.
        labels: (X, Y, Z) int regions, or None.
        course: background that was taken off the field, (X, Y, Z) [ppm], or 0.
        files: what was written, by name: "chi", "sidecar", "report".
    """

    subject: Subject
    chi: np.ndarray
    chi_network: np.ndarray
    residual: np.ndarray
    residual_network: np.ndarray
    parameters: dict
    warnings: list[str]
    labels: np.ndarray | None = None
    course: np.ndarray | float = 0.0
    files: dict[str, Path] = field(default_factory=dict)


def reconstruct(
    options: Options, log: Callable[[str], None] = lambda line: None, label: str = ""
) -> Result:
    """Reconstruct one scan and write the map with its sidecar, and the report.

    Map and sidecar are written both or neither; a report that fails costs neither of them.

    Args:
        options: files and parameters.
        log: takes a line of progress.
        label: of the progress bar of the fine-tuning; none without.

    Raises:
        ValueError: input or options that cannot be used; one line with the remedy.
        OSError: a file cannot be written.
    """
    check_numbers(options)
    check_outputs(options)
    hashes = named_hashes("weights", options.weights_file)
    subject = load_subject(
        options.field_file, options.mask_file, options.magnitude_file, options.scan
    )
    reference = _reference_mask(options.reference, subject)
    labels = _labels(options.labels_file, subject)
    with _while_importing("network_model.quiet"):
        looked = look_through(subject) if options.mend else (subject, 0, {}, [])
    trusted, course, mended, doubts = looked
    local = dataclasses.replace(subject, field=subject.field - course)
    sigma, note = noise_note(local)
    warnings = subject.warnings + scan_warnings(local) + doubts
    for line in [*subject.notes, note, *(f"warning: {w}" for w in warnings)]:
        log(line)

    chi_network, chi, steps = _invert(options, trusted, log, label)
    digest = hashes.pop("weights_sha256")
    steps[0] |= hashes
    residuals = [residual_field(local, x) for x in (chi_network, chi)]
    values = _referenced(chi, subject.mask, reference)
    parameters = describe(options, subject, digest, steps) | values | mended | {
        "NoiseEstimate_ppm": sigma,
        "MisfitNetwork_ppm": _rms(residuals[0], subject.mask),
        "Misfit_ppm": _rms(residuals[1], subject.mask),
        "Warnings": warnings,
    }  # fmt: skip
    result = Result(
        subject, chi, chi_network, residuals[1], residuals[0], parameters, warnings, labels, course
    )
    write_result(result, options)
    log(_summary(parameters))
    return result


@contextlib.contextmanager
def _while_importing(name: str):
    """Import a module on another thread; the block ends when that has ended, too.

    Keras and TensorFlow are seconds of one core, which the look through a field need not wait for.
    What `quiet` turns away of standard error meanwhile is not an error's line: that waits as well.
    """
    with ThreadPoolExecutor(1) as pool:
        imported = pool.submit(importlib.import_module, name)
        yield
        imported.result()


def _summary(p: dict) -> str:
    return (
        f"chi {p['BrainMean_ppm']:.4f} ± {p['BrainSD_ppm']:.4f} ppm, misfit "
        f"{p['MisfitNetwork_ppm']:.4f} → {p['Misfit_ppm']:.4f} ppm"
    )


def check_numbers(options: Options) -> None:
    """Raise a ValueError for an option that no file is needed to refuse."""
    check_choice(options.align)
    check_options(options.refine_options)
    Tuning(**options.tuning)
    if not options.align_voxel_mm > 0:
        raise ValueError(f"align_voxel_mm {options.align_voxel_mm}: expected a number > 0")
    if not 0 <= options.seed < 2**32:
        raise ValueError(f"seed {options.seed}: expected a whole number from 0 to 2^32 - 1")
    if options.scan.b0_dir is not None:
        unit_vector(options.scan.b0_dir, "b0_dir")


def check_outputs(options: Options) -> None:
    """Raise a ValueError for an output that cannot be written or would replace an input."""
    output = Path(options.output)
    if not output.name.endswith(SUFFIXES) or output.name in SUFFIXES:
        raise ValueError(f"{output}: expected an output name that ends in .nii or .nii.gz")
    inputs = [options.field_file, options.mask_file, options.magnitude_file, options.labels_file]
    inputs += [options.weights_file, *([] if options.reference in REGIONS else [options.reference])]
    inputs = [Path(i).absolute() for i in inputs if i]
    inputs += [i.resolve() for i in inputs]
    written = [output, sidecar_path(output), *([Path(options.report)] if options.report else [])]
    for path in written:
        taken = {*inputs, *map(sidecar_path, inputs)}
        if not taken.isdisjoint((path.absolute(), path.resolve())):
            raise ValueError(f"{path}: would replace an input or its sidecar; choose another name")
        if path.is_dir():
            raise ValueError(f"{path}: is a folder; expected a file name")
        if any(p.exists() and not p.is_dir() for p in path.absolute().parents):
            raise ValueError(f"{path}: its folder is a file; choose another name")
        folder = next(p for p in path.absolute().parents if p.exists())
        if not os.access(folder, os.W_OK | os.X_OK):
            raise ValueError(f"{path}: {folder} may not be written to; choose another folder")
    if options.report and Path(options.report).suffix not in (".html", ".htm"):
        raise ValueError(f"{options.report}: expected a report name that ends in .html")
    if options.report and importlib.util.find_spec("nilearn") is None:
        raise ValueError("a report needs nilearn: pip install -r requirements.txt")


def _invert(options: Options, subject: Subject, log, label: str):
    """Network, fine-tuning and refinement: the first map, the last map, and the steps' numbers."""
    import network_model.quiet  # noqa: F401

    # isort: split
    import keras

    from network_model import inference
    from network_model.finetune import fine_tune

    keras.utils.set_random_seed(options.seed)
    model, spec = inference.load_to_predict(options.weights_file)
    log(f"network of {model.count_params():,} parameters, inputs {', '.join(spec['inputs'])}")
    wanted = views_of(subject, spec["inputs"], options.align_voxel_mm, options.align)
    views = inference.affordable(spec, wanted, options.memory_gb)
    aligned = _aligned(views, log)
    if len(views) < len(wanted):
        log("the scan's own grid alone: cubes would exceed the memory; allow more with --memory")
        aligned["no_cubes_in_gb"] = options.memory_gb
    if options.finetune:
        tuned = inference.network_to_tune(options.weights_file)
        inference.check_training_memory(tuned[1], views[0].subject, options.memory_gb)
    given = (model, spec, views, options.memory_gb)
    chi, structured, share = inference.predict_views(*given, mirrors=options.mirrors)
    if share < 0.99 * views[-1].share:  # less than was wanted
        log(f"flat regions: cubes, which would blur their edges, have {share:.2g} of the mean")
        aligned["align_share"] = share
    chi_network = chi
    steps = [{"step": "network", "architecture": spec["architecture"], "inputs": spec["inputs"]}]
    steps[0] |= aligned | {"mirrors": options.mirrors, "precision": model.compute_dtype}
    if structured is not None:
        log(f"errors of the field: {100 * structured:.0f} % structured, the rest white")
        steps[0]["structured_share"] = structured
    if options.finetune:
        tuning = Tuning(**options.tuning)
        chi = fine_tune(given, tuned, tuning, options.finetune, options.mirrors, label)
        numbers = {"iterations": options.finetune, **dataclasses.asdict(tuning)}
        steps.append({"step": "fine-tuning", **numbers})
    if options.refine:
        chi = refine_image(chi, subject, structured, **options.refine_options)
        numbers = default_options() | options.refine_options
        steps.append({"step": "image refinement", **numbers})
        log("refined the map on the field's own grid")
    return chi_network, np.array(chi, np.float32), steps


def _aligned(views, log) -> dict:
    """Log on which voxels the network sees a scan besides its own; the numbers for the sidecar."""
    view = views[-1]
    if view.voxel_mm is None:
        return {}
    if len(views) > 1:
        log(f"mean of the maps on the scan's own voxels and on cubes of {view.voxel_mm:.3g} mm")
    else:
        log(f"resampled to {view.voxel_mm:.3g} mm with B0 along z for the network")
    return {"align_voxel_mm": view.voxel_mm, "align_share": view.share}


def _reference_mask(reference: str, subject: Subject):
    """Voxels whose mean is subtracted, on working axes; None for no reference."""
    if reference == "none":
        return None
    if reference == "brain":
        return subject.mask
    mask, volume = read_mask(reference, like=subject.grid)
    mask = to_canonical(dataclasses.replace(volume, data=mask)).data & subject.mask
    if not mask.any():
        raise ValueError(f"{reference}: no voxel of the reference lies inside the brain mask")
    return mask


def _labels(path: str | None, subject: Subject):
    """Regions on working axes as integers; None without a file."""
    if path is None:
        return None
    volume = read_volume(path)
    check_same_grid(subject.grid, volume)
    return np.rint(to_canonical(volume).data).astype(np.int32)


def residual_field(subject: Subject, chi) -> np.ndarray:
    """What the map leaves unexplained: field − D ∗ χ inside the mask [ppm], without its mean."""
    left = subject.field - field_inside(chi, subject.mask, subject.voxel_size, subject.b0_dir)
    # A constant field is invisible to the model: D(0) = 0.
    return np.where(subject.mask, left - left[subject.mask].mean(), 0).astype(np.float32)


def _rms(x, mask) -> float:
    return float(np.sqrt(np.mean(np.square(x[mask], dtype=float))))


def _referenced(chi, mask, reference) -> dict:
    """Subtract the reference's mean, in place; the numbers for the sidecar."""
    value = 0.0 if reference is None else float(chi[reference].mean(dtype=float))
    chi[mask] -= np.float32(value)
    return {
        "ReferenceValue_ppm": value,
        "ReferenceVoxels": 0 if reference is None else int(reference.sum()),
        "BrainMean_ppm": float(chi[mask].mean(dtype=float)),
        "BrainSD_ppm": float(chi[mask].std(dtype=float)),
    }


def write_result(result: Result, options: Options) -> None:
    """Write map, sidecar and report under temporary names, then rename them."""
    output = Path(options.output)
    paths = {"chi": output, "sidecar": sidecar_path(output)}
    if options.report:
        paths["report"] = Path(options.report)
    staged = {name: path.with_name(f".{os.getpid()}.{path.name}") for name, path in paths.items()}
    folders = {f for p in paths.values() for f in p.absolute().parents if not f.exists()}
    problem = None
    try:
        for path in paths.values():
            path.parent.mkdir(parents=True, exist_ok=True)
        result.subject.save(staged["chi"], result.chi)
        staged["sidecar"].write_text(json.dumps(result.parameters, indent=1, default=list) + "\n")
        if options.report:
            problem = _report_problem(result, staged["report"])
            paths = {n: p for n, p in paths.items() if n != "report" or problem is None}
        for name, path in paths.items():
            os.replace(staged[name], path)
    finally:
        for path in staged.values():
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
        for folder in sorted(folders, reverse=True):
            with contextlib.suppress(OSError):
                folder.rmdir()  # of those that were made, the empty ones
    result.files = paths
    if problem:
        raise ValueError(f"{options.report}: not made ({problem}); the map is in {output}")


def _report_problem(result: Result, path: Path) -> str | None:
    """Make the report; what went wrong if anything did, since the map is worth keeping then."""
    from network_model.report import make_report

    try:
        make_report(result, path)
    except Exception as error:  # noqa: BLE001, whatever a drawing library may raise
        return " ".join(f"{type(error).__name__}: {error}".split())
    return None
