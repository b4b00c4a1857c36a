"""Step 3 of the third network for white errors: the first's channels, with the second's map.

runs/white_third/white.h5 is the file of commit c85ee9c:

    git show c85ee9c:network_model/weights/white.h5 > runs/white_third/white.h5
"""

from configs.white_again.step3_genRDFPatchesSyn import config as second

config = second | {
    "run": "white_third",
    "firstFile": "runs/white_third/white.h5",
    "seed": 223,
}
