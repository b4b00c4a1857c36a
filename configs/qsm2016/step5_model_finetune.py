"""Step 5 on the measured field of the 2016 reconstruction challenge.

python network_model/model_finetune/train.py configs/qsm2016/step5_model_finetune.py
"""

config = {
    "run": "qsm2016",
    "fieldFile": "../shared/data/qsm2016/phs_tissue.nii.gz",
    "maskFile": "../shared/data/qsm2016/mask.nii.gz",
    "magnitudeFile": "../shared/data/qsm2016/magnitude.nii.gz",
    "method": "both",  # a minute of weights, then seconds of image refinement
    "rounds": 1,
    "iterations": 10,  # a minute on two cores; five seconds each
    "learning_rate": 1e-4,
}
