"""Step 1 of the third network for white errors: as the second's; more COSMOS, some flat heads."""

from configs.white.step1_genChi import config as first

config = first | {
    "run": "white_last",
    "number": 300,
    "seed": 281,
    "mixture": {"chi_map": 0.38, "phantom": 0.2, "flat_phantom": 0.15, "random_labels": 0.27},
}
