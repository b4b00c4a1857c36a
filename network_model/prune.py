"""Take the dead levels out of the innermost network of a weights file: the same map in less time.

    python network_model/prune.py network_model/weights/first.h5 pruned.h5

In a ReLU U-Net without bias and norm the features that come up from the lower levels can die in
training: all zero, on every scan. What is left are the convolutions of the first level, here four
in a row and the last one. The file is written only if both networks have the same map of a head of
step 0, and is listed with its SHA-256 in `SHA256SUMS` beside it.
"""

import argparse
import json
import os
import sys
from pathlib import Path

import h5py
import numpy as np

import network_model.quiet  # noqa: F401  before Keras
from configs import Parser, die, write_text
from network_model.unet import build_unet, load_network, make_spec, read_spec, write_network
from training_data.channels import FIRST
from training_data.origin import listed

TAG = "[prune]"
SAME = 1e-5  # difference of the two maps that rounding makes, over the map's largest value
SHAPE, SEED = (64, 72, 64), 0  # of the head that both networks are tried on


def parser() -> argparse.ArgumentParser:
    """Command line."""
    p = Parser(tag=TAG, prog="prune.py", description=__doc__.splitlines()[0])
    p.add_argument("weights", type=Path, help="weights file of step 4 or of pack.py")
    p.add_argument("output", type=Path, help="weights file to write")
    return p


def innermost(path: Path) -> str:
    """Group of the network of a file that is given no other one's map."""
    spec, group = read_spec(path), "/"
    while FIRST in spec["inputs"]:
        group = spec["first"]["group"]
        spec = read_spec(**spec["first"])
    return group


def pruned(model, spec: dict):
    """The first level of a U-Net alone, as a U-Net of one level.

    Args:
        model: as `load_network` returns it; spec: its specification.

    Returns:
        the smaller model and its specification.

    Raises:
        ValueError: a network of one level, or one whose other levels do more than their features
            say: norms, biases, gates.
    """
    plain = spec["architecture"] == "unet" and spec["norm"] == "none" and not spec["use_bias"]
    if not plain or spec["depth"] < 2:
        raise ValueError("expected a U-Net of two levels or more without norm and bias")
    number = spec["convs_per_level"]
    small = make_spec(spec | {"depth": 1, "convs_per_level": 2 * number})
    out = build_unet(small, ("target",))
    for i in range(2 * number):
        at = f"down0_{i}_conv" if i < number else f"up0_{i - number}_conv"
        kernel = model.get_layer(at).get_weights()[0]
        if i == number:  # of the features that come up and those of its own level, the latter
            kernel = kernel[:, :, :, 2 * spec["filters"] :]
        out.get_layer(f"down0_{i}_conv").set_weights([kernel])
    for layer in ("last", *(["linear_path"] if spec["linear_path"] else [])):
        out.get_layer(layer).set_weights(model.get_layer(layer).get_weights())
    return out, small


def largest_difference(networks, spec: dict) -> float:
    """Of two networks' maps of a head of step 0, over the largest value of the first."""
    from network_model.cases import drawn_head, simulate
    from network_model.inference import network_volume

    case = simulate(drawn_head(SEED, SHAPE), 0.003, SEED)
    x, mask, _ = network_volume(spec, case.subject)
    inputs = {"target_x": x[None], "target_mask": mask[None, ..., None]}
    maps = [np.asarray(model.predict_on_batch(inputs)["target_chi"]) for model in networks]
    return float(np.abs(maps[0] - maps[1]).max() / np.abs(maps[0]).max())


def rewrite(path: Path, group: str, model, spec: dict, output: Path) -> None:
    """Copy a weights file with another network in one of its groups; whole or not at all."""
    temporary = output.with_name(f".{output.name}.tmp")
    with h5py.File(path) as old, h5py.File(temporary, "w") as new:
        notes = json.loads(old[group].attrs["notes"])
        _copy_all_but(old, new, group)
        write_network(new[group], model, spec, notes)
    os.replace(temporary, output)


def _copy_all_but(old, new, group: str) -> None:
    """Copy a network and those below it; that in `group`, which is the last, stays empty."""
    if old.name == group:
        return
    new.attrs.update(old.attrs)
    for name in old:
        if name == FIRST:
            _copy_all_but(old[name], new.create_group(name), group)
        else:
            old.copy(name, new)


def main(argv: list[str]) -> None:
    """Prune the innermost network of the file that the command line names."""
    args = parser().parse_args(argv)
    group = innermost(args.weights)
    model, spec = load_network(args.weights, group=group)
    small, small_spec = pruned(model, spec)
    difference = largest_difference((model, small), spec)
    if difference > SAME:
        raise ValueError(
            f"{args.weights}: the lower levels of its innermost network are alive: without them "
            f"its map differs by {100 * difference:.2g} % of its largest value; left as it is"
        )
    rewrite(args.weights, group, small, small_spec, args.output)
    write_text(*listed(args.output))
    print(f"{TAG} {model.count_params():,} → {small.count_params():,} weights in {args.output}",
          flush=True)  # fmt: skip


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (ValueError, OSError) as problem:
        die(f"{TAG} {problem}")
