"""Step 2 of the demo: noise like the demo scan's.

python training_data/qsmFmapCal_gpu.py configs/demo/step2_qsmFmapCal.py
"""

config = {
    "run": "demo",
    "noise_ppm": [0.001, 0.006],
}
