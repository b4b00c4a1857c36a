"""Score card: every method on every validation case.

python network_model/scorecard.py [file of changed keys] [key=value ...]
"""

config = {
    "weightsFile": "network_model/weights/default.h5",  # network to score
    "dstFolder": "runs/score",  # scores.csv and scores.png
    "dataFolder": "../shared/data",  # qsm2016/ and fansi_phantom/; cases without data are left out
    "cases": [],  # their names; []: all
    "methods": ["tkd", "l2", "wiener", "tv", "network", "finetuned", "refined"],
    "noise_ppm": 0.003,  # median noise of the simulated fields [ppm]
    "heads": [1000, 1001, 1002],  # seeds of step 0's heads; those below 1000 may be trained on
    "shape": (160, 192, 160),  # grid of the heads
    "mirrors": True,  # "network": mean of the answers to the eight mirror images of a case
    "finetune": 10,  # iterations of "finetuned"
    "learning_rate": 1e-5,  # of them
    "seed": 7,  # of the noise
}
