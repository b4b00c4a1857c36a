"""Step 4 of the network for structured errors: homogeneous U-Net on half the grid.

The third of three in the shipped file, the second that was trained: given the map of the first
(`first.h5`), it learns from maps with structured errors only, where it is to take over. Packed, it
is given the better map of the second.
"""

import numpy as np

# The maps that step 2 gave structured errors, by its own draw.
DRAWN = (np.random.default_rng([47, i, 2]).random() for i in range(400))
STRUCTURED = [f"map_{i:04d}" for i, chance in enumerate(DRAWN) if chance < 0.55]

config = {
    "run": "structured",
    "seed": 47,
    "maps": STRUCTURED,
    "inputs": ["field", "mask", "noise", "structured", "tikhonov", "wiener", "tv", "first"],
    "firstFile": "network_model/weights/first.h5",
    "first_share": 1.0,
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
    "learning_rate": 4e-4,
    "schedule": "linear",
    "decay_share": 0.5,
    "clipnorm": 1.0,
    "batch_size": 2,
    "steps_per_epoch": 500,
    "validation_steps": 60,
    "epochs": 28,
    "patience": 1000,
    "augment": True,
    "sign_chance": 0.3,
    "verbose": 2,
    "weights_dtype": "float16",
}
