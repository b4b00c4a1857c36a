"""What a training keeps: its state after every epoch, its log and its curve."""

import csv
import json
import os
from pathlib import Path

import h5py
import keras


@keras.saving.register_keras_serializable("qsminvnet")
class ExponentialSteps(keras.optimizers.schedules.LearningRateSchedule):
    """Learning rate of the 2020 release: times e^−0.1 every 200 batches."""

    def __init__(self, learning_rate: float, every: int = 200):
        self.learning_rate, self.every = learning_rate, every

    def __call__(self, step):
        whole = keras.ops.floor(keras.ops.cast(step, "float32") / self.every)
        return self.learning_rate * keras.ops.exp(-0.1 * whole)

    def get_config(self):
        return {"learning_rate": self.learning_rate, "every": self.every}


@keras.saving.register_keras_serializable("qsminvnet")
class LinearDecay(keras.optimizers.schedules.LearningRateSchedule):
    """Short warm-up, constant, then linear to zero over the last `share` of `steps` batches."""

    def __init__(self, learning_rate: float, steps: int, share: float = 0.3, warmup: int = 100):
        self.learning_rate, self.steps = learning_rate, steps
        self.share, self.warmup = share, warmup

    def __call__(self, step):
        ops = keras.ops
        step = ops.cast(step, "float32")
        left = (self.steps - step) / max(1.0, self.share * self.steps)
        rise = (step + 1) / max(1, min(self.warmup, self.steps // 4))
        return self.learning_rate * ops.clip(ops.minimum(left, rise), 0.0, 1.0)

    def get_config(self):
        keys = ("learning_rate", "steps", "share", "warmup")
        return {key: getattr(self, key) for key in keys}


def save_state(path, model: keras.Model, notes: dict) -> None:
    """Write all variables of a compiled model and its optimizer, with notes, atomically (HDF5)."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.tmp")
    with h5py.File(temporary, "w") as file:
        file.attrs["notes"] = json.dumps(notes)
        for i, variable in enumerate(_state_variables(model)):
            file[f"{i:04d}"] = keras.ops.convert_to_numpy(variable)
    os.replace(temporary, path)


def load_state(path, model: keras.Model) -> dict:
    """Fill a compiled model and its optimizer from `save_state`'s file; returns the notes.

    Raises:
        ValueError: the state is unreadable or of another model.
    """
    variables = _state_variables(model)
    try:
        with h5py.File(path) as file:
            if len(file) != len(variables):
                raise ValueError(f"{len(variables)} variables expected, {len(file)} found")
            for i, variable in enumerate(variables):
                variable.assign(file[f"{i:04d}"][()])
            return json.loads(file.attrs["notes"])
    except (OSError, KeyError, ValueError) as error:
        raise ValueError(
            f"{path}: not the state of this model ({error}); delete it to begin anew"
        ) from error


def append_row(path, row: dict) -> None:
    """Append a row to a CSV log, with a header line if the file is new."""
    path = Path(path)
    new = not path.is_file()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(row), lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerow(row)


def read_rows(path) -> dict[str, list[float]]:
    """Columns of a CSV log as lists of numbers."""
    with Path(path).open(newline="") as file:
        rows = list(csv.DictReader(file))
    return {key: [float(row[key]) for row in rows] for key in rows[0]} if rows else {}


def cut_rows(path, count: int) -> None:
    """Keep the first `count` rows of a CSV log: what lies beyond the state that is resumed."""
    path = Path(path)
    if path.is_file():
        lines = path.read_text().splitlines(keepends=True)
        temporary = path.with_name(f".{path.name}.tmp")
        temporary.write_text("".join(lines[: count + 1]))
        os.replace(temporary, path)


def plot_curves(path, columns: dict[str, list[float]], x: str, title: str) -> None:
    """Draw columns of a log against column `x`, on a logarithmic scale, as a PNG."""
    from matplotlib.figure import Figure  # a reconstruction does without

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for name, values in columns.items():
        if name != x and name != "learning_rate":
            axes.plot(columns[x], values, label=name, linewidth=1.5)
    axes.set(xlabel=x, ylabel="loss", title=title, yscale="log")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))  # beside the curves
    temporary = Path(path).with_name(f".{Path(path).stem}.tmp.png")
    figure.savefig(temporary, dpi=120)
    os.replace(temporary, path)


def _state_variables(model: keras.Model) -> list:
    """All that training changes: weights, moving averages, the optimizer's moments and step."""
    names = [v for layer in model.layers for v in layer.variables]
    return names + list(model.optimizer.variables)
