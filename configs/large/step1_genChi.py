"""Step 1 of the large network: COSMOS map, step-0 heads, random labels, all new."""

from configs.guided.step1_genChi import config as first

config = first | {
    "run": "large",
    "number": 400,
    "seed": 149,
    "positiveChance": 0.25,
    "negativeChance": 0.25,
    "mixture": {"chi_map": 0.4, "phantom": 0.3, "random_labels": 0.3},
}
