"""Step 3 of the demo: small patches, with the whole volume's direct inversions as channels.

python genRDFPatchesSyn.py configs/demo/step3_genRDFPatchesSyn.py
"""

config = {
    "run": "demo",
    "patch_size": [48, 48, 48],
    "overlap_size": [24, 24, 24],
    "patches_per_map": 8,
    "min_brain": 0.25,
    "inputs": ["field", "mask", "noise", "tikhonov", "tv"],
}
