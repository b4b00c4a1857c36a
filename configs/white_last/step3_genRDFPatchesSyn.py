"""Step 3 of the third network for white errors: the second's channels, its map, whole maps.

runs/white_last/white.h5 is the file of this repository:

    cp network_model/weights/white.h5 runs/white_last/white.h5
"""

from configs.large.step3_genRDFPatchesSyn import config as whole

config = whole | {
    "run": "white_last",
    "firstFile": "runs/white_last/white.h5",
    "seed": 281,
}
