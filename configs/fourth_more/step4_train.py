"""Step 4 of the fourth network's fourth training: more of the third, on its patches.

runs/fourth_last/fourth_last.h5 is weights.h5 of `configs/fourth_last`.
"""

from configs.fourth_last.step4_train import config as first

config = first | {
    "run": "fourth_more",
    "seed": 412,
    "datasets_path": "runs/fourth_last/3_patches/patches.h5",
    "warm_start_path": "runs/fourth_last/fourth_last.h5",
    "learning_rate": 1e-4,
    "validation_steps": 10,
    "epochs": 21,
}
