"""Step 4 of the second network for white errors: begun with the first's weights, on its map."""

from configs.white.step4_train import config as first

config = first | {
    "run": "white_again",
    "seed": 211,
    "firstFile": "runs/white_again/white.h5",
    "warm_start_path": "runs/white_again/white.h5",
    "mixed_precision": True,
    "decay_share": 0.5,
    "steps_per_epoch": 250,
    "validation_steps": 60,
    "epochs": 18,
}
