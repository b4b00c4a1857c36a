"""Step 2 of the third training for white errors: as the second."""

from configs.white.step2_qsmFmapCal import config as first

config = first | {"run": "flat", "seed": 113}
