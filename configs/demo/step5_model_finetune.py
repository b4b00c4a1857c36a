"""Step 5 of the demo: fine-tuning on the head of which only the field was ever seen.

python network_model/model_finetune/train.py configs/demo/step5_model_finetune.py
"""

config = {
    "run": "demo",
    "magnitudeFile": "runs/{run}/0_phantom/head_2/magnitude.nii.gz",
    "method": "both",  # a minute of weights, then seconds of image refinement
    "rounds": 2,
    "iterations": 10,  # CPU minutes; at a rate that makes so few count
    "learning_rate": 1e-4,
}
