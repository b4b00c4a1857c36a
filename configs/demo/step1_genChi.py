"""Step 1 of the demo: a few maps from the built-in phantom.

python training_data/genChi.py configs/demo/step1_genChi.py
"""

config = {
    "run": "demo",
    "number": 24,  # enough patches for CPU minutes of training
}
