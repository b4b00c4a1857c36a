"""Step 1 of the third training for white errors: other maps, more random labels."""

from configs.white.step1_genChi import config as first

config = first | {
    "run": "white_more",
    "number": 160,
    "seed": 131,
    "mixture": {"chi_map": 0.35, "phantom": 0.3, "random_labels": 0.35},
}
