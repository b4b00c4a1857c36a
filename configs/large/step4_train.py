"""Step 4 of the large network: 48 filters, windows of 96³, white and structured errors.

Begun with the weights of the network for white errors, widened. For a GPU: KERAS_BACKEND=torch.
What came of it twice was no better than what is shipped (docs/NOTEBOOK.md).
"""

from configs.guided.step4_train import config as first

config = first | {
    "run": "large",
    "seed": 149,
    "warm_start_path": "network_model/weights/white.h5",
    "linear_start": 0,
    "filters": 48,
    "tile": 96,
    "crop": [96, 96, 96],
    "mixed_precision": True,
    "learning_rate": 2e-4,  # 4e-4 blew up (docs/NOTEBOOK.md)
    "decay_share": 0.5,
    "batch_size": 8,
    "steps_per_epoch": 250,
    "validation_steps": 0,
    "validation_split": 0.06,
    "epochs": 20,
    "resident": True,
}
