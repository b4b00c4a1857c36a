"""Step 4 of the third network for white errors: begun with the second's weights, on its map.

Not shipped: what it gains alone the refinement gains anyway (docs/NOTEBOOK.md).
"""

from configs.white_again.step4_train import config as second

config = second | {
    "run": "white_third",
    "seed": 223,
    "firstFile": "runs/white_third/white.h5",
    "warm_start_path": "runs/white_third/white.h5",
    "epochs": 20,
}
