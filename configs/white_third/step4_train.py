"""Step 4 of the third network for white errors: begun with the second's weights, on its map.

Not shipped: what it gains alone the refinement gains anyway (docs/LESSONS.md).
"""

from configs.white.step4_train import config as first

config = first | {
    "run": "white_third",
    "seed": 223,
    "firstFile": "runs/white_third/white.h5",
    "warm_start_path": "runs/white_third/white.h5",
    "mixed_precision": True,
    "decay_share": 0.5,
    "steps_per_epoch": 250,
    "validation_steps": 60,
    "epochs": 20,
}
