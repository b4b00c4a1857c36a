"""Step 4 of the third network: homogeneous U-Net on half the grid, for structured errors only.

Begun with the weights of `configs/structured`, which was given the map of the first network, had
no Wiener inverse that spares the cone, no linear path, and errors that are alike on and off it.
"""

config = {
    "run": "third",
    "seed": 71,
    "inputs": [
        "field", "mask", "noise", "structured", "tikhonov", "wiener", "wiener_cone", "tv", "first",
    ],
    "firstFile": "runs/second/packed.h5",
    "first_share": 1.0,
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
    "xsim_weight": 1.0,
    "learning_rate": 2e-4,
    "schedule": "linear",
    "decay_share": 0.5,
    "clipnorm": 1.0,
    "batch_size": 2,
    "steps_per_epoch": 500,
    "validation_steps": 64,
    "epochs": 28,
    "patience": 1000,
    "augment": True,
    "sign_chance": 0.3,
    "verbose": 2,
    "weights_dtype": "float16",
}  # fmt: skip
