"""Score card — every method on every validation case, in one table and one figure.

    python network_model/scorecard.py [file of changed keys] [key=value ...]

Cases are simulated from heads that no network is trained on, and from the COSMOS map, which all are
trained on and whose head the measured 2016 field is of. A row of
scores.csv is one method on one case, with the seconds it took; finished rows are kept when the same
command runs again.
"""

import csv
import time
from pathlib import Path

import network_model.quiet  # noqa: F401

# isort: split
import keras
import numpy as np

from configs import run_step, save_config, write_text
from network_model.align import views_of
from network_model.cases import all_cases
from network_model.figures import bar_figure
from network_model.finetune import fine_tune
from network_model.inference import load_to_predict, network_to_tune, predict_views
from network_model.mending import trusted_subject
from network_model.metrics import csv_text, score, table
from network_model.refine import refine_image
from network_model.tuning import Tuning
from network_model.weight_files import weights_hashes
from training_data.inversion import CLASSICAL, invert

TAG = "[scorecard]"
OURS = ("network", "finetuned", "refined")
SHOWN = ("nrmse", "nrmse_detrend", "xsim", "hfen", "correlation")


def lesion_scores(chi, case) -> dict[str, float]:
    """Mean χ of each lesion over its truth, and NRMSE three voxels or more away from all."""
    from scipy.ndimage import binary_dilation

    if case.lesions is None:
        return {}
    rows = {
        f"lesion{n}": float(chi[case.lesions == n].mean() / case.truth[case.lesions == n].mean())
        for n in range(1, case.lesions.max() + 1)
    }
    away = case.subject.mask & ~binary_dilation(case.lesions > 0, iterations=3)
    return rows | {"nrmse_away": score(chi, case.truth, away)["nrmse"]}


def reconstruct_case(method: str, subject, network, config: dict, before: dict) -> np.ndarray:
    """χ of a subject by one method; `before` holds what was made so far."""
    if method in CLASSICAL:
        geometry = (subject.field, subject.mask, subject.voxel_size, subject.b0_dir)
        return invert(method, *geometry, magnitude=subject.magnitude)
    if "trusted" not in before:
        before["trusted"] = trusted_subject(subject)[0]
    subject = before["trusted"]
    if method == "refined":
        return refine_image(before["network"], subject, before["structured"])
    given = (*network, views_of(subject, network[1]["inputs"]), None)
    if method == "network":
        chi, before["structured"], _ = predict_views(*given, mirrors=config["mirrors"])
        return chi
    # A fresh network each time: fine-tuning moves its weights.
    tuned = network_to_tune(config["weightsFile"])
    tuning = Tuning(learning_rate=config["learning_rate"])
    return fine_tune(given, tuned, tuning, config["finetune"], config["mirrors"])


def score_case(name: str, make, config: dict, network, done: set) -> list[dict]:
    """Rows of one case: a method, its scores and its seconds each."""
    wanted = [m for m in (*CLASSICAL, *OURS) if m in config["methods"]]
    methods = [m for m in wanted if (name, m) not in done]
    if not methods:
        return []
    case, maps, rows = make(), {}, []
    if "refined" in methods and "network" not in methods:
        maps["network"] = reconstruct_case("network", case.subject, network, config, maps)
    for method in methods:
        start = time.perf_counter()
        maps[method] = reconstruct_case(method, case.subject, network, config, maps)
        seconds = time.perf_counter() - start
        scores = score(maps[method], case.truth, case.subject.mask)
        row = {"case": name, "method": method} | {key: scores[key] for key in SHOWN}
        rows.append(row | lesion_scores(maps[method], case) | {"seconds": seconds})
    print("\n".join(table([{k: v for k, v in r.items() if k != "case"} for r in rows])), flush=True)
    return rows


def read_scores(path: Path) -> list[dict]:
    """Rows of an earlier run, numbers as numbers."""
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        return [
            {k: v if k in ("case", "method") else float(v) for k, v in row.items() if v != ""}
            for row in csv.DictReader(file)
        ]


def filled(rows: list[dict]) -> list[dict]:
    """Rows with the same columns each, empty where a score does not apply."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    return [{key: row.get(key, "") for key in columns} for row in rows]


def main(config: dict) -> None:
    """Score all methods on all cases."""
    unknown = [m for m in config["methods"] if m not in (*CLASSICAL, *OURS)]
    if unknown:
        raise ValueError(f"methods {unknown[0]!r}: expected {', '.join((*CLASSICAL, *OURS))}")
    cases = all_cases(config)
    chosen = config["cases"] or list(cases)
    missing = [name for name in chosen if name not in cases]
    if missing:
        raise ValueError(f"cases {missing[0]!r}: expected a choice of {', '.join(cases)}")
    folder = Path(config["dstFolder"])
    network = load_to_predict(config["weightsFile"])
    used = {"weights_sha256": list(weights_hashes(config["weightsFile"]).values())}
    save_config(config | used, folder, free=("cases", "methods", "dataFolder", "weightsFile"))
    keras.utils.set_random_seed(config["seed"])

    path = folder / "scores.csv"
    rows = read_scores(path)
    done = {(row["case"], row["method"]) for row in rows}
    for name in chosen:
        print(f"{TAG} {name}", flush=True)
        rows += score_case(name, cases[name], config, network, done)
        write_text(path, csv_text(filled(rows)))
    bar_figure(folder / "scores.png", rows, config["methods"], ("nrmse", "xsim"))
    print(f"{TAG} {path} and scores.png", flush=True)


if __name__ == "__main__":
    run_step("scorecard", main)
