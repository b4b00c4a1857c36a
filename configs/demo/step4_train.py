"""Step 4 of the demo: a small network, adapted to the field of a head it has no labels of.

python network_model/train_model/train.py configs/demo/step4_train.py
"""

config = {
    "run": "demo",
    "inputs": ["field", "mask", "noise", "tikhonov", "tv"],
    "residual": "tv",
    "filters": 8,
    "depth": 3,
    "fieldFile": "runs/{run}/0_phantom/head_2/localfield.nii.gz",
    "maskFile": "runs/{run}/0_phantom/head_2/mask.nii.gz",
    "magnitudeFile": "runs/{run}/0_phantom/head_2/magnitude.nii.gz",
    "target_crop": "random",
    "source_loss": "l1_rms",
    "learning_rate": 1e-3,
    "schedule": "linear",
    "augment": True,
    "epochs": 6,
}
