"""Step 1 from the COSMOS map of the 2016 reconstruction challenge, as the 2020 release did.

python training_data/genChi.py configs/qsm2016/step1_genChi.py
"""

config = {
    "run": "qsm2016",
    "chiFile": "../shared/data/qsm2016/chi_cosmos.nii.gz",
    "maskFile": "../shared/data/qsm2016/mask.nii.gz",
    "number": 30,  # half an hour for all steps on two cores; the release made 500
}
