"""Step 1 of the third network's third training: as the first, other maps."""

from configs.third.step1_genChi import config as first

config = first | {
    "run": "third_removal",
    "number": 100,
    "seed": 157,
}
