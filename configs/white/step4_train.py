"""Step 4 of the network for white errors: homogeneous U-Net on half the grid.

Begun with the weights of `configs/second`, in whose place it is taken where errors are white, and
which knew neither total variation guided by the first network's map nor the Wiener inverse that
spares the cone. Trained on a CPU without bfloat16.
"""

config = {
    "run": "guided",
    "seed": 83,
    "inputs": [
        "field", "mask", "noise", "structured", "tikhonov", "wiener", "wiener_cone", "tv", "first",
        "guided", "corrected",
    ],
    "firstFile": "network_model/weights/first.h5",
    "linear_path": True,
    "warm_start_path": "runs/second/4_train/weights.h5",
    "linear_start": 300,
    "filters": 32,
    "depth": 4,
    "convs_per_level": 2,
    "shuffle": 2,
    "tile": 64,
    "norm": "none",
    "negative_slope": 0.1,
    "use_bias": False,
    "mixed_precision": False,
    "source_loss": "l1_rms",
    "source_balance": "first",
    "xsim_weight": 1.0,
    "learning_rate": 2e-4,
    "schedule": "linear",
    "decay_share": 0.5,
    "clipnorm": 1.0,
    "batch_size": 2,
    "steps_per_epoch": 250,
    "validation_steps": 40,
    "epochs": 10,
    "patience": 1000,
    "augment": True,
    "sign_chance": 0.3,
    "verbose": 2,
    "weights_dtype": "float16",
}  # fmt: skip
