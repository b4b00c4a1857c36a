"""Step 1 of the fourth network's second training: as the third's, other maps."""

from configs.third.step1_genChi import config as first

config = first | {
    "run": "fourth_again",
    "number": 220,
    "seed": 307,
}
