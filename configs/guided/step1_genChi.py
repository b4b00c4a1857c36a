"""Step 1 of the network for white errors: COSMOS map, step-0 heads, random labels, all new."""

config = {
    "run": "guided",
    "chiFile": "../shared/data/qsm2016/chi_cosmos.nii.gz",
    "maskFile": "../shared/data/qsm2016/mask.nii.gz",
    "number": 110,  # maps
    "seed": 83,
    "elastic": "3d",
    "sourceRange": (0.3, 4.0),
    "flips": True,
    "veins": 12,
    "maskErosion": 3,
    "maskHoles": 2,
    "tilt_deg": 35.0,
    "voxel_size_range": (0.7, 1.3),
    "anisotropicChance": 0.3,
    "mixture": {"chi_map": 0.3, "phantom": 0.3, "random_labels": 0.4},
    "shape": (128, 144, 120),
}
