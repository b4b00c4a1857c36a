"""Step 1 of the fourth network's fifth training: the 240 maps of its third, and 240 others.

Map 37 is the same in both runs: they were made by raising `number` in runs/fourth_last.
"""

from configs.fourth_last.step1_genChi import config as first

config = first | {
    "run": "fourth_on",
    "number": 480,
}
