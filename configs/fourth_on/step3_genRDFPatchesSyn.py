"""Step 3 of the fourth network's fifth training: channels as in its third."""

from configs.fourth_last.step3_genRDFPatchesSyn import config as first

config = first | {
    "run": "fourth_on",
}
