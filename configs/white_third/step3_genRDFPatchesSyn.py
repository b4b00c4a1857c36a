"""Step 3 of the third network for white errors: the first's channels, with the second's map.

runs/white_third/white.h5 is the file of commit c85ee9c:

    git show c85ee9c:network_model/weights/white.h5 > runs/white_third/white.h5
"""

from configs.white.step3_genRDFPatchesSyn import config as first

config = first | {
    "run": "white_third",
    "firstFile": "runs/white_third/white.h5",
    "patches_per_map": 20,
    "seed": 223,
}
