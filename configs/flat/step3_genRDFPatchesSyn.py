"""Step 3 of the third training for white errors: the channels of the first."""

from configs.guided.step3_genRDFPatchesSyn import config as first

config = first | {"run": "flat", "seed": 113, "patches_per_map": 20}
