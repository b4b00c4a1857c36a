"""Step 2 of the large network: white and structured errors, slow courses in the background."""

from configs.guided.step2_qsmFmapCal import config as first

config = first | {
    "run": "large",
    "noise_ppm": [0.0004, 0.02],
    "courses_ppm": [0.0002, 0.004],
    "courses_chance": 0.4,
    "model_errors_chance": 0.45,
    "seed": 149,
}
