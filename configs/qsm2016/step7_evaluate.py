"""Step 7 on the measured field of the 2016 challenge, against COSMOS: the training head's map.

python network_model/evaluate.py configs/qsm2016/step7_evaluate.py
"""

config = {
    "run": "qsm2016",
    "truthFile": "../shared/data/qsm2016/chi_cosmos.nii.gz",
    "labelsFile": None,
}
