"""Step 3 of the network for white errors: first map and guided total variations as channels."""

config = {
    "run": "guided",
    "patch_size": [64, 64, 64],
    "overlap_size": [24, 24, 24],
    "patches_per_map": 16,
    "min_brain": 0.25,
    "inputs": [
        "field", "mask", "noise", "structured", "tikhonov", "wiener", "wiener_cone", "tv", "first",
        "guided", "corrected",
    ],
    "firstFile": "network_model/weights/first.h5",
    "dtype": "float16",
    "seed": 83,
}  # fmt: skip
