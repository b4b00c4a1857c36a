"""Step 3 of the fourth network's third training: channels as in its second.

runs/fourth_last/twice.h5 is made as `configs/fourth_again/step3_genRDFPatchesSyn.py` says.
"""

from configs.third.step3_genRDFPatchesSyn import config as first

config = first | {
    "run": "fourth_last",
    "firstFile": "runs/fourth_last/twice.h5",
    "patches_per_map": 16,
    "seed": 411,
}
