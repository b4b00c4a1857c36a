"""Step 3 of the large network: the channels of the network for white errors, of whole maps."""

from configs.guided.step3_genRDFPatchesSyn import config as first

config = first | {
    "run": "large",
    "patch_size": [128, 144, 128],
    "overlap_size": [16, 16, 16],
    "patches_per_map": 1,
    "min_brain": 0.0,
    "compression": None,
    "seed": 149,
}
