"""Step 2 of the fourth network's third training: structured errors in all maps, as before."""

from configs.third.step2_qsmFmapCal import config as first

config = first | {
    "run": "fourth_last",
    "seed": 411,
}
