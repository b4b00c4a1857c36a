"""Step 6 on a whole study: every local field below a BIDS folder, in one process or on a cluster.

One scan that fails does not stop the others; a scan whose map is there and was made with the same
weights and parameters from files and sidecars that are not newer is skipped. On a SLURM cluster,
start Dask's scheduler and workers once (`pip install dask-jobqueue`, in a session that stays open)

    from dask_jobqueue import SLURMCluster
    cluster = SLURMCluster(cores=4, processes=1, memory="16GB", walltime="02:00:00",
                           scheduler_options={"port": 8786})
    cluster.scale(jobs=20)

and give its address to step 6: `--bids STUDY --out DIR --scheduler tcp://HOST:8786`. Workers need
this package installed and the study mounted at the same path.
"""

import concurrent.futures
import contextlib
import csv
import dataclasses
import hashlib
import io
import json
import os
import sys
import time
from pathlib import Path

from tqdm import tqdm

from network_model.bids import ScanFiles, check_owner, dataset_files, find_scans, source_uri
from network_model.reconstruction import REGIONS, Options, check_numbers, reconstruct
from network_model.sidecar import read_sidecar, sidecar_number, sidecar_path, tool_version
from network_model.subject import DEFAULT_ECHO
from network_model.weight_files import weights_hashes
from training_data.backend import cores

COLUMNS = {
    "ReferenceValue_ppm": "reference_ppm",
    "BrainMean_ppm": "mean_ppm",
    "BrainSD_ppm": "sd_ppm",
    "NoiseEstimate_ppm": "noise_ppm",
    "MisfitNetwork_ppm": "misfit_network_ppm",
    "Misfit_ppm": "misfit_ppm",
}
# Change no map, are hashed, or are compared where they did (`_had_less_memory`).
NOT_PARAMETERS = ("output", "report", "memory_gb", "weights_file")


def run_cohort(study, out, template: Options, patterns: dict, workers=1, scheduler=None) -> list:
    """Reconstruct every scan of a study.

    Args:
        study: BIDS folder with local fields.
        out: derivatives folder to write to.
        template: parameters of every scan; of its files only the weights are used. A `report`
            makes one page per scan; a `reference` other than "none" and "brain" is a pattern of
            mask files.
        patterns: see `bids.find_scans`.
        workers: processes on this machine; scheduler: address of a Dask scheduler, or None.

    Returns:
        a row (dict) per scan, as in `summary.csv`.

    Raises:
        ValueError: nothing to do, unusable weights, no Dask; or scans that failed, by name, after
            all others were done.
    """
    study, out = Path(study).absolute(), Path(out).absolute()
    _check_request(study, out, workers)
    check_numbers(template)
    digest = "".join(weights_hashes(template.weights_file).values())
    scans = find_scans(study, out, _with_reference(patterns, template.reference))
    for name, text in dataset_files(study, out).items():
        _write(out / name, text)
    rows, todo = {}, {}
    for scan in scans:
        try:
            options = scan_options(scan, out, template)
            extra = _extra(study, scan, options, digest)
            done = _finished(options, extra)
            rows[scan.name] = _row(scan.name, "skipped", done) if done else None
            todo |= {} if done else {scan.name: (options, extra)}
        except (ValueError, OSError) as problem:
            rows[scan.name] = _row(scan.name, "failed", message=str(problem))
    print(f"{len(scans)} scans, {len(todo)} to do", flush=True)
    try:
        with _executor(workers, scheduler) if todo else contextlib.nullcontext() as pool:
            _run_all(pool, todo, rows)
    except KeyboardInterrupt:
        stopped = [row or _row(name, "stopped") for name, row in rows.items()]
        _write_summary(out, stopped)
        raise
    return _summarize(out, [rows[scan.name] for scan in scans])


def _check_request(study: Path, out: Path, workers: int) -> None:
    """Raise a ValueError for a folder that can't take the maps, or no worker."""
    if study.resolve() == out.resolve():
        raise ValueError(f"{out}: is the study itself; choose a folder such as derivatives/qsm")
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out}: is a file; expected a folder for the maps")
    check_owner(out)
    if workers < 1:
        raise ValueError(f"workers {workers}: expected at least 1")


def _with_reference(patterns: dict, reference: str) -> dict:
    return patterns | ({} if reference in REGIONS else {"reference": [reference]})


def scan_options(scan: ScanFiles, out: Path, template: Options) -> Options:
    """Options of one scan.

    Raises:
        ValueError: no mask or reference matches, several files do, or several fields would give
            one map.
    """
    if scan.rivals:
        files = ", ".join(map(str, (scan.field, *scan.rivals)))
        raise ValueError(f"several local fields for one map: {files}; narrow fieldPatterns")
    for kind, files in scan.several.items():
        if kind != "labels" or template.report:
            listed = ", ".join(map(str, files))
            remedy = "name it more narrowly" if kind == "reference" else f"narrow {kind}Patterns"
            raise ValueError(f"several files may be the {kind} of {scan.field}: {listed}; {remedy}")
    if scan.mask is None:
        raise ValueError(f"{scan.field}: no mask matches it; change maskPatterns")
    reference = template.reference
    if reference not in REGIONS:
        if scan.reference is None:
            raise ValueError(f"{scan.field}: no reference mask matches {reference!r}")
        reference = str(scan.reference)
    magnitude, acquisition = _magnitude(scan, template.scan)
    output = scan.output(out)
    return dataclasses.replace(
        template, field_file=str(scan.field), mask_file=str(scan.mask), output=str(output),
        magnitude_file=magnitude, scan=acquisition, reference=reference,
        report=str(out / "reports" / f"{scan.name}.html") if template.report else None,
        labels_file=str(scan.labels) if scan.labels and template.report else None,
    )  # fmt: skip


def _magnitude(scan: ScanFiles, acquisition):
    """File of the echo that is asked for, and what is known of the acquisition from its sidecar."""
    if not scan.magnitudes:
        return None, dataclasses.replace(acquisition, echo=None)
    path = scan.magnitudes[0]
    if len(scan.magnitudes) > 1:
        last = len(scan.magnitudes) - 1
        index = min(DEFAULT_ECHO, last) if acquisition.echo is None else acquisition.echo
        if not isinstance(index, int) or not 0 <= index <= last:
            raise ValueError(f"{path}: has echoes 0 to {last}, asked for echo {index!r}")
        path, acquisition = scan.magnitudes[index], dataclasses.replace(acquisition, echo=None)
    if acquisition.unit != "ppm":
        here, there = read_sidecar(scan.field), read_sidecar(path)
        for name, key in (("b0", "MagneticFieldStrength"), ("te", "EchoTime")):
            if getattr(acquisition, name) is None and key not in here:
                known = {name: sidecar_number(there, key)}
                acquisition = dataclasses.replace(acquisition, **known)
    return str(path), acquisition


def _extra(study: Path, scan: ScanFiles, options: Options, digest: str) -> dict:
    """What a map's sidecar says beyond one scan's: BIDS' keys, and a hash of the parameters."""
    files = [options.field_file, options.mask_file, options.magnitude_file, options.labels_file]
    files += [str(scan.reference)] if scan.reference else []
    sources = [source_uri(study, path) for path in files if path]
    numbers = {k: v for k, v in dataclasses.asdict(options).items() if k not in NOT_PARAMETERS}
    numbers = {k: v for k, v in numbers.items() if not k.endswith("_file")}
    numbers["reference"] = "file" if scan.reference else options.reference
    known = json.dumps([numbers, sources, digest, tool_version()], sort_keys=True, default=list)
    return {
        "Sources": sources,
        "SkullStripped": True,
        "SpatialReference": "orig",
        "ParametersSHA256": hashlib.sha256(known.encode()).hexdigest(),
    }


def _finished(options: Options, extra: dict) -> dict:
    """The sidecar of a map that need not be made again; else empty."""
    output = Path(options.output)
    if not output.is_file():
        return {}
    made = output.stat().st_mtime
    report = Path(options.report) if options.report else output
    if not report.is_file() or report.stat().st_mtime < made:
        return {}  # none, or that of an earlier map
    inputs = [options.field_file, options.mask_file, options.magnitude_file, options.labels_file]
    inputs += [] if options.reference in REGIONS else [options.reference]
    inputs = [Path(i) for i in inputs if i]
    inputs += [s for i in inputs if (s := sidecar_path(i)).is_file()]
    if max(os.path.getmtime(i) for i in inputs) > made:
        return {}
    try:
        sidecar = read_sidecar(output)
    except ValueError:
        return {}
    if _had_less_memory(sidecar, options.memory_gb):
        return {}
    return sidecar if sidecar.get("ParametersSHA256") == extra["ParametersSHA256"] else {}


def _had_less_memory(sidecar: dict, memory_gb: float | None) -> bool:
    """Whether a map was made without the cubes for want of memory, and there is more of it now."""
    had = sidecar.get("Steps", [{}])[0].get("no_cubes_in_gb")
    return had is not None and (memory_gb is None or memory_gb > had)


def run_scan(options: Options, extra: dict) -> dict:
    """One scan, in whichever process: writes its map; returns what the map's sidecar says."""
    started = time.monotonic()
    # The network is read for every scan (0.2 s): one scan's fine-tuning never reaches the next.
    result = reconstruct(options)
    # Written last: without it the map does not count as finished.
    sidecar = result.parameters | extra
    _write(sidecar_path(options.output), json.dumps(sidecar, indent=1, default=list) + "\n")
    if "keras" in sys.modules:
        sys.modules["keras"].utils.clear_session()  # hundreds of models would pile up
    return {**sidecar, "seconds": time.monotonic() - started}


@contextlib.contextmanager
def _executor(workers: int, scheduler: str | None):
    """Something with `submit`: a thread of this process, or Dask's processes.

    Raises:
        ValueError: Dask is needed and not there.
        OSError: no scheduler answers.
    """
    if workers == 1 and scheduler is None:
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            yield pool
        return
    try:
        from distributed import Client, LocalCluster
    except ImportError as error:
        raise ValueError(
            "--workers and --scheduler need Dask: pip install 'dask[distributed]'"
        ) from error
    with contextlib.ExitStack() as stack:
        address = scheduler
        if scheduler is None:
            threads = str(max(cores() // workers, 1))
            names = ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS")
            # No memory limit: Dask would kill a worker; --memory bounds each scan instead.
            address = stack.enter_context(LocalCluster(
                n_workers=workers, threads_per_worker=1, processes=True, memory_limit=0,
                dashboard_address=None, env=dict.fromkeys(names, threads),
            ))  # fmt: skip
        client = stack.enter_context(Client(address))
        yield stack.enter_context(client.get_executor(pure=False))


def _run_all(pool, todo: dict, rows: dict) -> None:
    """Run what is to do, with a progress bar and a line per scan, and fill in its rows."""
    futures = {pool.submit(run_scan, *arguments): name for name, arguments in todo.items()}
    try:
        with tqdm(total=len(futures), unit="scan", disable=not futures) as bar:
            for future in concurrent.futures.as_completed(futures):
                name, problem = futures[future], future.exception()
                if problem is None:
                    row = _row(name, "done", future.result())
                else:
                    # Whatever went wrong with one scan, the others go on.
                    text = " ".join(str(problem).split()) or type(problem).__name__
                    row = _row(name, "failed", message=text)
                rows[name] = row
                bar.write(f"{name}: {row['state']} {row['message']}".rstrip())
                bar.update()
    except KeyboardInterrupt:
        for future in futures:
            future.cancel()
        pool.shutdown(wait=False)
        raise


def _row(name: str, state: str, sidecar: dict | None = None, message: str = "") -> dict:
    """One line of the summary."""
    sidecar = sidecar or {}
    seconds = sidecar.get("seconds")
    return {
        "scan": name,
        "state": state,
        "seconds": round(seconds, 1) if seconds is not None else "",
        **{column: sidecar.get(key, "") for key, column in COLUMNS.items()},
        "warnings": len(sidecar["Warnings"]) if "Warnings" in sidecar else "",
        "message": message or "; ".join(sidecar.get("Warnings", [])),
    }


def _summarize(out: Path, rows: list[dict]) -> list[dict]:
    """Write and print the table; a ValueError names what failed."""
    _write_summary(out, rows)
    shown = [list(rows[0])[:-1], *([_cell(v) for v in row.values()][:-1] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
    for line in shown:
        print("  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip())
    states = [row["state"] for row in rows]
    print(", ".join(f"{states.count(s)} {s}" for s in ("done", "skipped", "failed")), flush=True)
    failed = [row["scan"] for row in rows if row["state"] == "failed"]
    if failed:
        raise ValueError(
            f"{len(failed)} of {len(rows)} scans failed: {', '.join(failed)}; why is in "
            f"{out / 'summary.csv'}"
        )
    return rows


def _write_summary(out: Path, rows: list[dict]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    _write(out / "summary.csv", text.getvalue())


def _cell(value) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _write(path: Path, text: str) -> None:
    """Write a text file under a temporary name and rename it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)
