"""Step 3 of the second network for white errors, trained on: the same channels, of whole maps.

runs/white_fine/white.h5 is made as that of configs/white_again.
"""

from configs.large.step3_genRDFPatchesSyn import config as whole

config = whole | {
    "run": "white_fine",
    "firstFile": "runs/white_fine/white.h5",
    "seed": 251,
}
