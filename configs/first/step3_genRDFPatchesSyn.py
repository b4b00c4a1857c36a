"""Step 3 of the first network: patches with the whole volume's direct inversions as channels."""

config = {
    "run": "first",
    "patch_size": [64, 64, 64],
    "overlap_size": [24, 24, 24],
    "patches_per_map": 14,
    "min_brain": 0.25,
    "inputs": ["field", "mask", "noise", "tikhonov", "wiener", "tv"],
    "dtype": "float16",
    "seed": 31,
}
