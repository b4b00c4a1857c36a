"""Step 2: field of every synthetic map.

python training_data/qsmFmapCal_gpu.py [file of changed keys] [key=value ...]
"""

config = {
    "run": "default",  # name of the run: folders below runs/
    "srcFolder": "runs/{run}/1_chi",  # step 1's output; the fields are written beside the maps
    "device": "auto",  # "gpu" (CuPy), "cpu" (SciPy), or "auto": the GPU where there is one
    "processes": 1,  # that work side by side and share the cores; the maps are the same
    "pad": True,  # zero-pad to twice the brain; False: fields wrap around, as in the 2020 release
    "voxel_size": None,  # [mm], three numbers; None: from each file's header
    "b0_dir": None,  # direction of B0 in voxel axes; None: from sample.json, else from the affine
    "seed": 0,  # of the noise; a map's noise depends on (seed, index) only
    # Off in the 2020 release; what a measured field has and a simulated one lacks (noise.py):
    "noise_ppm": [],  # [low, high] of the noise's median sd [ppm], drawn log-uniformly; []: none
    "courses_ppm": [],  # [low, high] of the rms of slow courses [ppm], log-uniform; []: none
    "courses_chance": 0.5,  # share of the maps that get one
    "removal_chance": 0.0,  # share of the maps with errors of background removal (removal.py)
    "model_errors": 0.0,  # 0 to 1: largest spread of structured errors over that of the field
    "model_errors_chance": 0.5,  # share of the maps that get them
    "model_error_shares": {},  # weights of the kinds, see ERROR_SHARES in training_data/noise.py
}
