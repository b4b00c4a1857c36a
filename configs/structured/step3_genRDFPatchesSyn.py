"""Step 3 of the network for structured errors: patches with the direct inversions as channels."""

config = {
    "run": "structured",
    "patch_size": [64, 64, 64],
    "overlap_size": [24, 24, 24],
    "patches_per_map": 14,
    "min_brain": 0.25,
    "inputs": ["field", "mask", "noise", "structured", "tikhonov", "wiener", "tv", "first"],
    "firstFile": "network_model/weights/first.h5",
    "dtype": "float16",
    "seed": 47,
}
