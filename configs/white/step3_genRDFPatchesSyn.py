"""Step 3 of the second training for white errors: the channels of the first."""

from configs.guided.step3_genRDFPatchesSyn import config as first

config = first | {
    "run": "white",
    "seed": 97,
}
