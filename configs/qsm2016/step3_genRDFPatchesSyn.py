"""Step 3 on the 2016 challenge: 64³ patches, for two CPU cores.

python genRDFPatchesSyn.py configs/qsm2016/step3_genRDFPatchesSyn.py
"""

config = {
    "run": "qsm2016",
    "patch_size": [64, 64, 64],
    "overlap_size": [24, 24, 24],
    "patches_per_map": 12,
    "min_brain": 0.25,
    "inputs": ["field", "mask", "noise", "tikhonov", "tv"],
    "dtype": "float16",
}
