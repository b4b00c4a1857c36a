"""Step 1 of the fourth network's fifth training: 240 maps more than its third had."""

from configs.fourth_last.step1_genChi import config as first

config = first | {"number": 480}
