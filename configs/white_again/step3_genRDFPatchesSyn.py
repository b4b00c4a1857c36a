"""Step 3 of the second network for white errors: the first's channels, with its own map.

`firstFile` is `white.h5` of commit b10c0ae: what lies in the group `first` of
`network_model/weights/white.h5` since this network is at its root.
"""

from configs.white.step3_genRDFPatchesSyn import config as first

config = first | {
    "run": "white_again",
    "firstFile": "network_model/weights/white.h5",
    "patches_per_map": 20,
    "seed": 211,
}
