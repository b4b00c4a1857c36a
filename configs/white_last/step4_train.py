"""Step 4 of the third network for white errors: begun with the second's weights, on its map.

On a GPU: KERAS_BACKEND=torch.
"""

from configs.white_fine.step4_train import config as second

config = second | {
    "run": "white_last",
    "seed": 281,
    "firstFile": "runs/white_last/white.h5",
    "warm_start_path": "runs/white_last/white.h5",
    "batch_size": 32,
    "learning_rate": 3e-4,
    "epochs": 14,
}
