"""Step 4 of the shipped network: homogeneous U-Net (no bias, no norm) on half the grid.

It corrects the map of a first network (`first.h5`), which corrected a total-variation inversion.
"""

config = {
    "run": "shipped",
    "seed": 47,
    "inputs": ["field", "mask", "noise", "structured", "tikhonov", "wiener", "tv", "first"],
    "firstFile": "network_model/weights/first.h5",
    "residual": "first",
    "filters": 32,
    "depth": 4,
    "convs_per_level": 2,
    "shuffle": 2,
    "norm": "none",
    "negative_slope": 0.1,
    "use_bias": False,
    "mixed_precision": True,
    "source_loss": "l1_rms",
    "source_balance": True,
    "xsim_weight": 0.5,
    "learning_rate": 7e-4,
    "schedule": "linear",
    "decay_share": 0.5,
    "clipnorm": 1.0,
    "batch_size": 2,
    "steps_per_epoch": 1000,
    "validation_steps": 80,
    "epochs": 24,
    "patience": 1000,
    "augment": True,
    "sign_chance": 0.3,
    "verbose": 2,
}
