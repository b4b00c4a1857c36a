"""Step 3 of the fourth network: the third's channels, with the third's own map.

runs/fourth/third.h5 is `default.h5` as commit 8a7ab55 ships it without its key `repeats`, and
`white.h5` lies beside it:

    python network_model/pack.py runs/fourth/third.h5 network_model/weights/first.h5 \\
        runs/second/4_train/weights.h5 network_model/weights/default.h5 \\
        --first-share 0 0.7 --white white.h5
"""

from configs.third.step3_genRDFPatchesSyn import config as first

config = first | {
    "run": "fourth",
    "firstFile": "runs/fourth/third.h5",
    "patches_per_map": 16,
    "seed": 191,
}
