"""Step 1: synthetic susceptibility maps.

python training_data/genChi.py [file of changed keys] [key=value ...]

The defaults are those of the 2020 release. Everything under "Off in the 2020 release" leaves the
rest of a map as it was: each stage has a random stream of its own.
"""

config = {
    "run": "default",  # name of the run: folders below runs/
    "chiFile": "runs/{run}/0_phantom/head_1/chi.nii.gz",  # χ map [ppm]: or your COSMOS map
    "maskFile": None,  # brain mask on the grid of chiFile; None: where χ is not 0
    "dstFolder": "runs/{run}/1_chi",  # one folder map_0000, map_0001, … per map
    "number": 500,  # maps of this run, as in the release
    "first": 0,  # index of the first one; two processes may share a folder by different ranges
    "seed": 0,  # a map depends on (seed, index) only
    "processes": 1,  # that work side by side and share the cores; the maps are the same
    # Elastic transform, as shares of the grid's second size N, so that any grid is deformed alike.
    # Axes are those of the map turned closest to right, anterior, superior, however it is stored.
    "elastic": "inplane",  # "inplane" (release): nothing moves along z; "3d"; "none"
    "elasticAlpha": 2.0,  # displacements = alpha·N·G_σ(U(−1, 1)): about 0.6 voxel rms at N = 160
    "elasticSigma": 0.08,  # width σ of their filter: 12.8 voxels at N = 160, the size of a gyrus
    "elasticAffine": 0.08,  # corners of the affine map move by up to this share of each axis
    # Mask: the SMV operator takes off the rim, where interpolation mixes brain with nothing
    "erosionRadius": 2.0,  # [mm]; applied once for the mask, once more for the inner brain; 0: none
    # One of these with equal chance
    "contrasts": ["linear", "gamma", "log", "sigmoid", "none", "none"],
    # High-susceptibility sources: bleeding, calcification
    "positiveChance": 1 / 6,  # share of the maps with positive sources
    "positiveNumber": 4,  # how many of them are drawn, those of shape "none" included
    "positiveValue": 2.0,  # mean [ppm]
    "negativeChance": 1 / 6,  # share of the maps with negative sources; none in all other maps
    "negativeNumber": 2,  # fewer: calcifications come alone
    "negativeValue": -2.0,  # mean [ppm]
    "sourceValueSd": 0.1,  # spread about the means [ppm]
    "sourceAxes": (1, 5),  # smallest and largest semi-axis, whole numbers [mm]
    # Chance of each shape; "cuboid" and "cylinder" exist, off in the release
    "sourceShapes": {"ellipsoid": 0.25, "sphere": 0.25, "none": 0.5},
    # Off in the 2020 release; for training data that generalises:
    "sourceRange": None,  # (0.3, 4.0): sources of this magnitude [ppm] instead of the means above
    "flips": False,  # mirror each axis with chance 1/2
    "veins": 0,  # up to so many curved tubes a map, +0.1 to 0.45 ppm, radius 0.4 to 1.5 mm
    "maskErosion": 0,  # erode the mask by up to so many voxels more, as careful masking does
    "maskHoles": 0,  # cut up to so many holes into the mask, as masking by signal does
    "tilt_deg": 0.0,  # turn B0 by up to this about a random axis [degree]; step 2 reads it
    "voxel_size_range": None,  # (0.8, 1.3): factor on the voxel edges; the anatomy scales with them
    "anisotropicChance": 0.0,  # with voxel_size_range: share of maps with z edges 1 to 2× longer
    # Shares of the maps: from chiFile, heads as step 0 draws them, random-label volumes; also
    # "flat_phantom": heads of step 0 without texture and partial volume
    "mixture": {"chi_map": 1.0, "phantom": 0.0, "random_labels": 0.0},
    # Share of phantoms and random labels drawn on half the voxel edge, so that step 2 can add up
    # what a voxel holds, as a scanner does; 8 times the work
    "fineChance": 0.0,
    "shape": None,  # grid of phantoms and random labels; None: that of chiFile
    "voxelSize": (1.0, 1.0, 1.0),  # their voxels [mm] where shape is set and chi_map is 0
}
