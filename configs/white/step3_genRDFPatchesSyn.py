"""Step 3 of the second training for white errors: the channels of the first."""

config = {
    "run": "white",
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
    "seed": 97,
}  # fmt: skip
