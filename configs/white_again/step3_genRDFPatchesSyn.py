"""Step 3 of the second network for white errors: the first's channels, with its own map.

White.h5 is that of commit 8a7ab55 after `network_model/prune.py`.
"""

from configs.white.step3_genRDFPatchesSyn import config as first

config = first | {
    "run": "white_again",
    "firstFile": "network_model/weights/white.h5",
    "patches_per_map": 20,
    "seed": 211,
}
