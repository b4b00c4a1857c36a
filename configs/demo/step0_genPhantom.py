"""Step 0 of the demo: one head to train on, another that is only ever seen as a field.

python training_data/genPhantom.py configs/demo/step0_genPhantom.py

About 2 s a head on one core of an AMD EPYC.
"""

config = {
    "run": "demo",
    "seeds": [1, 2],  # 1 trains, 2 is fine-tuned on and scored
    "shape": (96, 112, 96),  # small, for CPU minutes of training
    "voxel_size": (1.6, 1.6, 1.6),  # the whole head in that grid [mm]
}
