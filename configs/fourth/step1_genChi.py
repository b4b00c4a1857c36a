"""Step 1 of the fourth network: as the third's, other maps."""

from configs.third.step1_genChi import config as first

config = first | {
    "run": "fourth",
    "number": 100,
    "seed": 191,
}
