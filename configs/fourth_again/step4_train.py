"""Step 4 of the fourth network's second training: begun with its weights, on the map it is given.

Losses and rate of the third.
"""

from configs.third.step4_train import config as first

config = first | {
    "run": "fourth_again",
    "seed": 307,
    "firstFile": "runs/fourth_again/twice.h5",
    "warm_start_path": "network_model/weights/fourth.h5",
    "sign_chance": 0.1,
    "steps_per_epoch": 250,
    "validation_steps": 60,
    "epochs": 34,
}
