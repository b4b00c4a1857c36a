"""Step 3: paired patches in one HDF5 file.

python genRDFPatchesSyn.py [file of changed keys] [key=value ...]
"""

config = {
    "run": "default",  # name of the run: folders below runs/
    "srcFolder": "runs/{run}/1_chi",  # maps of step 1 with the fields of step 2
    "dstFile": "runs/{run}/3_patches/patches.h5",  # the one file that step 4 reads
    "patch_size": [128, 128, 128],  # voxels; what a GPU's memory holds in training
    "overlap_size": [32, 32, 32],  # voxels between corners: a stride, the 2020 name is kept
    "patches_per_map": 0,  # random choice of so many patches per map; 0: all
    "min_brain": 0.0,  # least share of a patch inside the mask; 0: keep all
    "inputs": ["field", "mask"],  # channels of the network; more of them: channels.py
    "firstFile": None,  # weights whose map is the channel "first": a second network corrects it
    "compression": "lzf",  # of the file; None: larger, and read faster by a GPU's training
    "dtype": "float32",  # "float16" halves the file; it rounds by 0.05 %, or 3e-8 ppm
    "seed": 0,  # of the random choice
    "processes": 1,  # that work side by side and share the cores; the patches are the same
}
optional = ("compression",)  # may be None although the default is not
