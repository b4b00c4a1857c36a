"""Step 2 of the third network for white errors: as the first's."""

from configs.white.step2_qsmFmapCal import config as first

config = first | {
    "run": "white_third",
    "seed": 223,
}
