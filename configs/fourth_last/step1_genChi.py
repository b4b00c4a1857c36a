"""Step 1 of the fourth network's third training: as the third's, other maps."""

from configs.third.step1_genChi import config as first

config = first | {
    "run": "fourth_last",
    "number": 240,
    "seed": 411,
}
