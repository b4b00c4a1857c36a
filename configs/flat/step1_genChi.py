"""Step 1 of the third training for white errors: heads without texture among the others."""

from configs.guided.step1_genChi import config as first

config = first | {
    "run": "flat",
    "number": 110,
    "seed": 113,
    "positiveChance": 0.25,
    "negativeChance": 0.25,
    "anisotropicChance": 0.4,
    "mixture": {"chi_map": 0.35, "phantom": 0.2, "flat_phantom": 0.25, "random_labels": 0.2},
}
