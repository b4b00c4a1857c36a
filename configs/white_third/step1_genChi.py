"""Step 1 of the third network for white errors: as the second's; more COSMOS, some flat heads."""

from configs.white.step1_genChi import config as first

config = first | {
    "run": "white_third",
    "number": 84,
    "seed": 223,
    "mixture": {"chi_map": 0.4, "phantom": 0.2, "flat_phantom": 0.12, "random_labels": 0.28},
}
