"""Step 3 of the third training for white errors: the channels of the first, more patches."""

from configs.white.step3_genRDFPatchesSyn import config as first

config = first | {
    "run": "white_more",
    "patches_per_map": 24,
    "seed": 131,
}
