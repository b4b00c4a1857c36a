"""Step 4 of the second training for white errors: begun with the weights of `configs/guided`."""

from configs.guided.step4_train import config as first

config = first | {
    "run": "white",
    "seed": 97,
    "warm_start_path": "runs/guided/4_train/weights.h5",
    "decay_share": 0.6,
    "epochs": 7,
    "linear_start": 0,
}
