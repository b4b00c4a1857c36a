"""Step 5 — fine-tuning of a trained network on one subject.

    python network_model/model_finetune/train.py [file of changed keys] [key=value ...]

Reads the weights of step 4 and a field, mask and optional magnitude of any size, and moves the
weights until the dipole model explains the field. The map is saved before each round
(`chi_round00.nii.gz` is the plain network's) and at the end (`chi.nii.gz`), in ppm, on the grid and
affine of the input. After a kill the same command goes on with the round that was not finished.
"""

from pathlib import Path

import network_model.quiet  # noqa: F401

# isort: split
import keras

from configs import run_step, save_config
from network_model.callbacks import append_row, cut_rows, plot_curves, read_rows
from network_model.finetune import METHODS, FineTuner
from network_model.inference import network_to_tune
from network_model.refine import refine_image
from network_model.subject import subject_from_config
from network_model.tuning import Tuning
from training_data.origin import file_hashes

TAG = "[5 finetune]"


def run_rounds(tuner: FineTuner, config: dict, folder: Path) -> None:
    """Save the map and do a round of iterations, as often as the config says; resumes."""
    state, log = folder / "state.h5", folder / "losses.csv"
    rounds, iterations = config["rounds"], config["iterations"]
    done = tuner.load(state) if state.is_file() else 0
    if done:
        print(f"{TAG} going on after round {done} of {rounds}", flush=True)
    cut_rows(log, done * iterations)
    for number in range(done, rounds):
        tuner.subject.save(folder / f"chi_round{number:02d}.nii.gz", tuner.chi())
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
    model, spec = network_to_tune(config["weightsFile"])
    # Hashes too: a folder of other files under the same names is not finished.
    files = {n: config[f"{n}File"] for n in ("weights", "field", "mask", "magnitude")}
    save_config(config | file_hashes(**files), folder)
    if final.is_file():
        print(f"{TAG} finished before: {final}", flush=True)
        return

    keras.utils.set_random_seed(config["seed"])
    tuner = FineTuner(model, spec, subject, tuning)
    shape = "×".join(map(str, subject.mask.shape))
    print(f"{TAG} {shape} voxels, {model.count_params():,} parameters", flush=True)
    if config["method"] == "image" or not config["iterations"] * config["rounds"]:
        subject.save(folder / "chi_round00.nii.gz", tuner.chi())
    else:
        run_rounds(tuner, config, folder)

    chi = tuner.chi()
    if config["method"] != "network":
        subject.save(folder / "chi_network.nii.gz", chi)
        chi = refine_image(chi, subject)
    subject.save(final, chi)
    inside = chi[subject.mask]
    print(f"{TAG} chi {inside.mean():.4f} ± {inside.std():.4f} ppm in {final}", flush=True)


if __name__ == "__main__":
    run_step("step5_model_finetune", main)
