"""Step 1 of the second network for white errors, trained on: structure in voxels, flat heads.

Half of the phantoms and random labels are drawn on half the voxel edge as well.
"""

from configs.white.step1_genChi import config as first

config = first | {
    "run": "white_fine",
    "number": 280,
    "seed": 251,
    "mixture": {"chi_map": 0.35, "phantom": 0.2, "flat_phantom": 0.12, "random_labels": 0.33},
    "fineChance": 0.5,
}
