"""Step 3 of the third network's third training: the channels of the first.

runs/second/packed.h5 is also the group `first` of `network_model/weights/default.h5`.
"""

from configs.third.step3_genRDFPatchesSyn import config as first

config = first | {
    "run": "third_removal",
    "patches_per_map": 16,
    "seed": 157,
}
