"""Step 3 of the large network: the channels of the network for white errors, in larger patches."""

from configs.guided.step3_genRDFPatchesSyn import config as first

config = first | {
    "run": "large",
    "patch_size": [112, 112, 112],
    "overlap_size": [40, 40, 40],
    "patches_per_map": 2,
    "compression": None,
    "seed": 131,
}
