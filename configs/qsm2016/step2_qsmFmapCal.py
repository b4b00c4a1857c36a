"""Step 2 on the 2016 challenge: white noise and the structured errors of a measured field.

python training_data/qsmFmapCal_gpu.py configs/qsm2016/step2_qsmFmapCal.py
"""

config = {
    "run": "qsm2016",
    "noise_ppm": [0.001, 0.010],
    "model_errors": 1.0,
}
