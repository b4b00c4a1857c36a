"""Step 2 of the third network's third training: errors of background removal in most maps."""

from configs.third.step2_qsmFmapCal import config as first

config = first | {
    "run": "third_removal",
    "removal_chance": 0.65,
    "model_errors_chance": 0.7,
    "seed": 157,
}
