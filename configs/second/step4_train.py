"""Step 4 of the second network: homogeneous U-Net (no bias, no norm) on half the grid.

The second of three in the shipped file: it is given the map of the first (`first.h5`), which
corrects a total-variation inversion, and is for all scans. Begun with the weights of
`configs/structured`, which had seen structured errors only. Epochs 1 to 11 had a rate of 3e-4.
"""

config = {
    "run": "second",
    "seed": 59,
    "inputs": ["field", "mask", "noise", "structured", "tikhonov", "wiener", "tv", "first"],
    "firstFile": "network_model/weights/first.h5",
    "linear_path": True,
    "warm_start_path": "runs/structured/4_train/weights.h5",
    "filters": 32,
    "depth": 4,
    "convs_per_level": 2,
    "shuffle": 2,
    "tile": 64,
    "norm": "none",
    "negative_slope": 0.1,
    "use_bias": False,
    "mixed_precision": True,
    "source_loss": "l1_rms",
    "source_balance": "first",
    "xsim_weight": 0.5,
    "learning_rate": 2e-4,
    "schedule": "linear",
    "decay_share": 0.5,
    "clipnorm": 1.0,
    "batch_size": 2,
    "steps_per_epoch": 500,
    "validation_steps": 72,
    "epochs": 34,
    "patience": 1000,
    "augment": True,
    "sign_chance": 0.3,
    "verbose": 2,
    "weights_dtype": "float16",
}
