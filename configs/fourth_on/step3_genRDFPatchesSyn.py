"""Step 3 of the fourth network's fifth training: what its third left in runs/fourth_last grows."""

from configs.fourth_last.step3_genRDFPatchesSyn import config as first

config = first | {}
