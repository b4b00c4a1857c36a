"""Step 1 of the second network for white errors: as the first's, other maps."""

from configs.white.step1_genChi import config as first

config = first | {
    "run": "white_again",
    "number": 80,
    "seed": 211,
    "mixture": {"chi_map": 0.35, "phantom": 0.3, "random_labels": 0.35},
}
