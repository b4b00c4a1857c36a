"""Step 4 of the third training for white errors: begun with the weights of `configs/white`."""

from configs.white.step4_train import config as first

config = first | {
    "run": "white_more",
    "seed": 131,
    "warm_start_path": "runs/white/4_train/weights.h5",
    "mixed_precision": True,
    "decay_share": 0.6,
    "steps_per_epoch": 500,
    "validation_steps": 60,
    "epochs": 19,
}
