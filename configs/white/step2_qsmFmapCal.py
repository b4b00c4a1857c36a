"""Step 2 of the second training for white errors: as the first, more noise, fewer structured."""

from configs.guided.step2_qsmFmapCal import config as first

config = first | {
    "run": "white",
    "noise_ppm": [0.0004, 0.02],
    "model_errors_chance": 0.2,
    "seed": 97,
}
