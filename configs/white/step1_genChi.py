"""Step 1 of the second training for white errors: more of the COSMOS map, more sources."""

from configs.guided.step1_genChi import config as first

config = first | {
    "run": "white",
    "number": 100,
    "seed": 97,
    "positiveChance": 0.35,
    "negativeChance": 0.35,
    "anisotropicChance": 0.4,
    "mixture": {"chi_map": 0.45, "phantom": 0.3, "random_labels": 0.25},
}
