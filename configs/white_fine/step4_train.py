"""Step 4 of the second network for white errors, trained on, on a GPU: KERAS_BACKEND=torch.

runs/white_fine/start.h5 is the file that was shipped before:

    git show ac77a8a:network_model/weights/white.h5 > runs/white_fine/start.h5
"""

from configs.white_again.step4_train import config as first

config = first | {
    "run": "white_fine",
    "seed": 251,
    "firstFile": "runs/white_fine/white.h5",
    "warm_start_path": "runs/white_fine/start.h5",
    "crop": [64, 64, 64],
    "batch_size": 16,
    "resident": True,
    "validation_split": 0.08,
    "validation_steps": 0,
    "epochs": 17,
}
