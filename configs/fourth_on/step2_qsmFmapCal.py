"""Step 2 of the fourth network's fifth training: errors of all maps as in its third."""

from configs.fourth_last.step2_qsmFmapCal import config as first

config = first | {
    "run": "fourth_on",
}
