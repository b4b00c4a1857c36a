"""Step 3 of the third network for white errors: the first's channels, with the second's map."""

from configs.white.step3_genRDFPatchesSyn import config as first

config = first | {
    "run": "white_third",
    "firstFile": "network_model/weights/white.h5",
    "patches_per_map": 20,
    "seed": 223,
}
