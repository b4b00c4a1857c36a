"""Step 3 of the second network for white errors: the first's channels, with its own map.

runs/white_again/white.h5 is the file that was shipped before this network came to its root:

    git show b10c0ae:network_model/weights/white.h5 > runs/white_again/white.h5
"""

from configs.white.step3_genRDFPatchesSyn import config as first

config = first | {
    "run": "white_again",
    "firstFile": "runs/white_again/white.h5",
    "patches_per_map": 20,
    "seed": 211,
}
