"""Step 4 of the third network's second training: begun with the weights of `configs/third`.

On a CPU without bfloat16.
"""

from configs.third.step4_train import config as first

config = first | {
    "run": "third_more",
    "seed": 113,
    "warm_start_path": "runs/third/4_train/weights.h5",
    "mixed_precision": False,
    "xsim_weight": 1.5,
    "decay_share": 0.6,
    "steps_per_epoch": 250,
    "validation_steps": 40,
    "epochs": 12,
}
