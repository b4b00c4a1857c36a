"""Step 5 — fine-tuning of a trained network on one subject.

    python network_model/model_finetune/train.py [file of changed keys] [key=value ...]

Reads the weights of step 4 and a field, mask and optional magnitude of any size, and moves the
weights until the dipole model explains the field; of several networks in a row those of the first,
whose map the others are given. The map is saved before each round (`chi_round00.nii.gz` is the
plain network's) and at the end (`chi.nii.gz`), in ppm, on the grid and affine of the input. After a
kill the same command goes on with the round that was not finished.
"""

from pathlib import Path

import network_model.quiet  # noqa: F401

# isort: split
import keras

from configs import run_step, save_config
from network_model.align import views_of
from network_model.callbacks import append_row, cut_rows, plot_curves, read_rows
from network_model.finetune import METHODS, FineTuner, map_of_all
from network_model.inference import load_to_predict, network_to_tune
from network_model.refine import refine_image
from network_model.subject import scan_hashes, subject_from_config
from network_model.tuning import Tuning
from network_model.weight_files import named_hashes

TAG = "[5 finetune]"


def run_rounds(tuner: FineTuner, given: tuple, config: dict, folder: Path) -> None:
    """Save the map and do a round of iterations, as often as the config says; resumes."""
    state, log = folder / "state.h5", folder / "losses.csv"
    rounds, iterations = config["rounds"], config["iterations"]
    done = tuner.load(state) if state.is_file() else 0
    if done:
        print(f"{TAG} going on after round {done} of {rounds}", flush=True)
    cut_rows(log, done * iterations)
    for number in range(done, rounds):
        tuner.subject.save(folder / f"chi_round{number:02d}.nii.gz", map_of_all(given, tuner))
        rows = tuner.run(iterations, f"{TAG} round {number + 1}/{rounds}")
        for i, row in enumerate(rows, number * iterations):
            append_row(log, {"iteration": i, **row})
        tuner.save(state, number + 1)
        plot_curves(folder / "losses.png", read_rows(log), "iteration", "Fine-tuning")


def main(config: dict) -> None:
    """Run step 5, from the beginning or from the last finished round."""
    if config["method"] not in METHODS:
        raise ValueError(f"method {config['method']!r}: expected one of {', '.join(METHODS)}")
    if min(config["rounds"], config["iterations"]) < 0:
        raise ValueError("rounds and iterations: expected whole numbers of at least 0")
    tuning, folder = Tuning.from_config(config), Path(config["dstFolder"])
    final = folder / "chi.nii.gz"
    subject = subject_from_config(config, TAG)
    model, spec = load_to_predict(config["weightsFile"])
    tuned = network_to_tune(config["weightsFile"]) if spec["tile"] else (model, spec)
    # Hashes too: a folder of other files under the same names is not finished.
    hashes = scan_hashes(config) | named_hashes("weights", config["weightsFile"])
    save_config(config | hashes, folder)
    if final.is_file():
        print(f"{TAG} finished before: {final}", flush=True)
        return

    keras.utils.set_random_seed(config["seed"])
    tuner = FineTuner(*tuned, subject, tuning)
    given = (model, spec, views_of(subject, spec["inputs"], choice="off"), None)
    shape, number = "×".join(map(str, subject.mask.shape)), tuned[0].count_params()
    others = ", those of the first network; others correct its map" if spec["tile"] else ""
    print(f"{TAG} {shape} voxels, {number:,} parameters{others}", flush=True)
    if config["iterations"] * config["rounds"] and config["method"] != "image":
        run_rounds(tuner, given, config, folder)

    chi = map_of_all(given, tuner)
    if not (folder / "chi_round00.nii.gz").is_file():  # no weights have moved
        subject.save(folder / "chi_round00.nii.gz", chi)
    if config["method"] != "network":
        subject.save(folder / "chi_network.nii.gz", chi)
        chi = refine_image(chi, subject)
    subject.save(final, chi)
    inside = chi[subject.mask]
    print(f"{TAG} chi {inside.mean():.4f} ± {inside.std():.4f} ppm in {final}", flush=True)


if __name__ == "__main__":
    run_step("step5_model_finetune", main)
