"""Step 2 of the third network's second training: structured errors in all maps, as in the first."""

from configs.third.step2_qsmFmapCal import config as first

config = first | {
    "run": "third_more",
    "seed": 113,
}
