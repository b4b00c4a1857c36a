"""Step 4 of the fourth network: begun with the third's weights, it corrects the third's map.

The third one did so itself before, as far as it can that has never seen a map of its own.
"""

from configs.third.step4_train import config as first

config = first | {
    "run": "fourth",
    "seed": 191,
    "firstFile": "runs/fourth/third.h5",
    "warm_start_path": "network_model/weights/default.h5",
    "steps_per_epoch": 250,
    "validation_steps": 60,
    "epochs": 24,
}
