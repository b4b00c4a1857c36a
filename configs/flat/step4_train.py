"""Step 4 of the third training for white errors: begun with `white.h5`."""

from configs.white.step4_train import config as first

config = first | {
    "run": "flat",
    "seed": 113,
    "warm_start_path": "network_model/weights/white.h5",
    "mixed_precision": True,
    "epochs": 14,
}
