"""Step 2 of the second network for white errors, trained on: as before."""

from configs.white_again.step2_qsmFmapCal import config as first

config = first | {
    "run": "white_fine",
    "seed": 251,
}
