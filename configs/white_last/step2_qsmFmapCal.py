"""Step 2 of the third network for white errors: as the second's."""

from configs.white_again.step2_qsmFmapCal import config as first

config = first | {
    "run": "white_last",
    "seed": 281,
}
