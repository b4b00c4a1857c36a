"""Step 4 on the 2016 challenge: COSMOS as source, the measured field as target.

python network_model/train_model/train.py configs/qsm2016/step4_train.py
"""

config = {
    "run": "qsm2016",
    "inputs": ["field", "mask", "noise", "tikhonov", "tv"],
    "residual": "tv",
    "filters": 16,
    "depth": 4,
    "fieldFile": "../shared/data/qsm2016/phs_tissue.nii.gz",
    "maskFile": "../shared/data/qsm2016/mask.nii.gz",
    "magnitudeFile": "../shared/data/qsm2016/magnitude.nii.gz",
    "target_crop": "random",
    "source_loss": "l1_rms",
    "learning_rate": 1e-3,
    "schedule": "linear",
    "clipnorm": 1.0,
    "batch_size": 1,
    "augment": True,
    "steps_per_epoch": 150,
    "validation_steps": 30,
    "epochs": 5,  # minutes on two cores; a GPU will want ten times that
}
