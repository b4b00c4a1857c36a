"""Step 4 of the fourth network's second training: begun with its weights, on the map it is given.

Losses and rate of the third. Its weights as they were then:

    git show 1d387a0:network_model/weights/fourth.h5 > runs/fourth_again/fourth.h5
"""

from configs.third.step4_train import config as first

config = first | {
    "run": "fourth_again",
    "seed": 307,
    "firstFile": "runs/fourth_again/twice.h5",
    "warm_start_path": "runs/fourth_again/fourth.h5",
    "sign_chance": 0.1,
    "steps_per_epoch": 250,
    "validation_steps": 60,
    "epochs": 34,
}
