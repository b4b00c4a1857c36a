"""Four ways to give a network a scan whose B0 is tilted or whose voxels are not 1 mm cubes.

    python benchmarks/geometry.py [--weights FILE] [--heads 1001] [--noise 0.003]

as is:    the scan taken for 1 mm cubes with B0 along z, which is what a network is fed in silence
aligned:  resampled to 1 mm and turned until B0 is along z, the map turned back (`--align on`)
true:     direct inversions with the true kernel on the true grid as inputs (`--align off`)
both:     mean of the map on the true grid and of that on cubes (`--align both`)
"""

import argparse
import dataclasses

import network_model.quiet  # noqa: F401

# isort: split
import numpy as np

from configs import PROJECT_ROOT
from configs.step6_reconstruct import config
from network_model.align import views_of
from network_model.cases import TILT, Head, pair_slices, simulate
from network_model.inference import load_to_predict, predict_views
from network_model.metrics import score, table
from training_data.phantom import make_head

Z = (0.0, 0.0, 1.0)


def head_at(seed: int, voxel: float, shape) -> Head:
    """A head of step 0 on cubes of `voxel` mm."""
    head = make_head(shape, (voxel,) * 3, np.random.default_rng(seed))
    parts = (head[name] for name in ("chi", "mask", "magnitude", "labels"))
    return Head(*parts, (voxel,) * 3)


def geometries(seed: int, noise: float):
    """Name and case of each geometry."""
    straight = head_at(seed, 1.0, (160, 192, 160))
    yield "straight, 1 mm", simulate(straight, noise, seed)
    yield "20° tilt", simulate(straight, noise, seed, TILT)
    yield "1×1×2 mm", simulate(pair_slices(straight), noise, seed)
    yield "0.7 mm", simulate(head_at(seed, 0.7, (224, 256, 224)), noise, seed)


def four_ways(model, spec: dict, subject) -> dict[str, np.ndarray]:
    """χ of a subject by each of the four ways."""
    wrong = dataclasses.replace(subject, voxel_size=(1.0, 1.0, 1.0), b0_dir=np.array(Z))
    seen = {"as is": (wrong, "off")}
    seen |= {"aligned": (subject, "on"), "true": (subject, "off"), "both": (subject, "both")}
    return {
        way: predict_views(model, spec, views_of(scan, spec["inputs"], choice=choice))[0]
        for way, (scan, choice) in seen.items()
    }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", default=PROJECT_ROOT / config["weightsFile"])
    parser.add_argument("--heads", type=int, nargs="+", default=[1001])
    parser.add_argument("--noise", type=float, default=0.003, help="[ppm]")
    args = parser.parse_args()
    model, spec = load_to_predict(args.weights)
    rows = []
    for seed in args.heads:
        for name, case in geometries(seed, args.noise):
            for way, chi in four_ways(model, spec, case.subject).items():
                scores = score(chi, case.truth, case.subject.mask)
                row = {"scan": f"head {seed}, {name}: {way}"}
                rows.append(row | {key: scores[key] for key in ("nrmse", "xsim")})
    print("\n".join(table(rows)))


if __name__ == "__main__":
    main()
