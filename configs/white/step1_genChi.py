"""Step 1 of the second training for white errors: more of the COSMOS map, more sources."""

config = {
    "run": "white",
    "chiFile": "../shared/data/qsm2016/chi_cosmos.nii.gz",
    "maskFile": "../shared/data/qsm2016/mask.nii.gz",
    "number": 100,  # maps
    "seed": 97,
    "elastic": "3d",
    "sourceRange": (0.3, 4.0),
    "positiveChance": 0.35,
    "negativeChance": 0.35,
    "flips": True,
    "veins": 12,
    "maskErosion": 3,
    "maskHoles": 2,
    "tilt_deg": 35.0,
    "voxel_size_range": (0.7, 1.3),
    "anisotropicChance": 0.4,
    "mixture": {"chi_map": 0.45, "phantom": 0.3, "random_labels": 0.25},
    "shape": (128, 144, 120),
}
