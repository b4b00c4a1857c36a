"""Step 4 of the first network: homogeneous U-Net (no bias, no norm) that corrects a TV inversion.

A network of one convolution a level first; then two a level, grown from it, because from scratch
the deeper one died (docs/NOTEBOOK.md):

python network_model/train_model/train.py configs/first/step4_train.py convs_per_level=1 \\
    dstFolder=runs/first/4_first
python network_model/train_model/train.py configs/first/step4_train.py \\
    warm_start_path=runs/first/4_first/weights.h5
"""

config = {
    "run": "first",
    "seed": 31,
    "inputs": ["field", "mask", "noise", "tikhonov", "wiener", "tv"],
    "residual": "tv",
    "filters": 16,
    "depth": 4,
    "convs_per_level": 2,
    "mixed_precision": True,
    "norm": "none",
    "use_bias": False,
    "source_loss": "l1_rms",
    "source_balance": "tv",
    "learning_rate": 7e-4,
    "schedule": "linear",
    "clipnorm": 1.0,
    "batch_size": 2,
    "steps_per_epoch": 200,
    "validation_steps": 45,
    "epochs": 30,
    "patience": 1000,
    "augment": True,
    "sign_chance": 0.3,
    "verbose": 2,
}
