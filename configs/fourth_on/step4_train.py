"""Step 4 of the fourth network's fifth training: more of its third, on twice the maps.

runs/fourth_on/fourth_more.h5 is weights.h5 of `configs/fourth_more`.
"""

from configs.fourth_last.step4_train import config as first

config = first | {
    "run": "fourth_on",
    "seed": 511,
    "warm_start_path": "runs/fourth_on/fourth_more.h5",
    "validation_steps": 20,
    "epochs": 100,
}
