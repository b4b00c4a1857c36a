"""Step 3 of the second network for white errors, trained on: the same channels, of whole maps.

runs/white_fine/white.h5 is made as that of configs/white_again.
"""

from configs.white_again.step3_genRDFPatchesSyn import config as first

config = first | {
    "run": "white_fine",
    "firstFile": "runs/white_fine/white.h5",
    "patch_size": [128, 144, 128],
    "overlap_size": [16, 16, 16],
    "patches_per_map": 1,
    "min_brain": 0.0,
    "compression": None,
    "seed": 251,
}
