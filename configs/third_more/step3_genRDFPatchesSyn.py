"""Step 3 of the third network's second training: the channels of the first."""

from configs.third.step3_genRDFPatchesSyn import config as first

config = first | {
    "run": "third_more",
    "patches_per_map": 16,
    "seed": 113,
}
