"""Step 3 of the third network: patches with the direct inversions and the second map as channels.

runs/second/packed.h5 is the second network with its own first in one file:

    python network_model/pack.py runs/second/packed.h5 network_model/weights/first.h5 \\
        runs/second/4_train/weights.h5 --first-share 0
"""

config = {
    "run": "third",
    "patch_size": [64, 64, 64],
    "overlap_size": [24, 24, 24],
    "patches_per_map": 13,
    "min_brain": 0.25,
    "inputs": [
        "field", "mask", "noise", "structured", "tikhonov", "wiener", "wiener_cone", "tv", "first",
    ],
    "firstFile": "runs/second/packed.h5",
    "dtype": "float16",
    "seed": 71,
}  # fmt: skip
