"""Step 2 of the fourth network: structured errors in all maps, as for the third."""

from configs.third.step2_qsmFmapCal import config as first

config = first | {
    "run": "fourth",
    "seed": 191,
}
