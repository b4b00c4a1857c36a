"""Step 3 of the fourth network: the third's channels, with the third's own map.

runs/fourth/third.h5 and white.h5 beside it are the files that were shipped before the fourth:

    git show 8a7ab55:network_model/weights/default.h5 > runs/fourth/third.h5
    git show 8a7ab55:network_model/weights/white.h5 > runs/fourth/white.h5
"""

from configs.third.step3_genRDFPatchesSyn import config as first

config = first | {
    "run": "fourth",
    "firstFile": "runs/fourth/third.h5",
    "patches_per_map": 16,
    "seed": 191,
}
