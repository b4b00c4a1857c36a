"""Step 4 of the fourth network's third training: begun with all of the second's weights.

runs/fourth_last/fourth_again.h5 is weights.h5 of `configs/fourth_again`, of which three quarters
were packed. Its loss fell in the decay alone, hence batches of four, and decay from step 1 on.
"""

from configs.third.step4_train import config as first

config = first | {
    "run": "fourth_last",
    "seed": 411,
    "firstFile": "runs/fourth_last/twice.h5",
    "warm_start_path": "runs/fourth_last/fourth_again.h5",
    "sign_chance": 0.1,
    "xsim_weight": 2.5,
    "learning_rate": 1.5e-4,
    "decay_share": 1.0,
    "batch_size": 4,
    "steps_per_epoch": 125,
    "validation_steps": 30,
    "epochs": 64,
}
