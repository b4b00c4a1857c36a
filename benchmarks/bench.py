"""Speed and memory, as ratios of alternatives measured side by side in one run.

    python benchmarks/bench.py [--size 160] [--repeats 5] [--rows physics gpu network]

Each row times A and B in turn (A B A B …) and gives the median of B/A pair by pair: above one, A is
faster. GPU rows appear where CuPy finds a GPU. Wall seconds; CPU seconds where a row says so.
"""

import argparse

import network_model.quiet  # noqa: F401

# isort: split
import keras
import numpy as np
from rows import gpu_rows, network_rows, physics_rows

from training_data.phantom import make_head

ROWS = {"physics": physics_rows, "gpu": gpu_rows, "network": network_rows}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=160, help="edge of the volume [voxels]")
    parser.add_argument("--repeats", type=int, default=5, help="pairs per row")
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS), help="which rows")
    args = parser.parse_args()
    voxel_size = (160 / args.size,) * 3
    head = make_head((args.size,) * 3, voxel_size, np.random.default_rng(1))
    print(f"Keras {keras.__version__} on {keras.backend.backend()}, {args.size}³ voxels")
    print(f"{'A | B':<72} {'A [s]':>9} {'B [s]':>9} {'B/A':>8}")
    for rows in (ROWS[name] for name in args.rows):
        for line in rows(head, voxel_size, args.repeats):
            print(line, flush=True)


if __name__ == "__main__":
    main()
