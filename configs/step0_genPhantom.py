"""Step 0: built-in digital heads, for those who have no COSMOS map yet.

python training_data/genPhantom.py [file of changed keys] [key=value ...]

About 5 s a head on one core of an AMD EPYC; `head_1/chi.nii.gz` is what step 1 starts from.
"""

config = {
    "run": "default",  # name of the run: folders below runs/
    "dstFolder": "runs/{run}/0_phantom",  # one folder head_<seed> per head
    # One head per seed. Seeds of 1000 and more are kept for heads that nothing is trained on.
    "seeds": [1, 2],
    "shape": (160, 192, 160),  # grid; the brain shrinks where the field of view is too small
    "voxel_size": (1.0, 1.0, 1.0),  # [mm]
    "b0_dir": (0.0, 0.0, 1.0),  # direction of B0 in voxel axes; the affines tilt with it
    "haemorrhage": False,  # one bleeding, 0.5 to 2 ppm
    "calcification": False,  # one to three calcifications, -1 to -3 ppm
    "B0": 3.0,  # field strength [T]; 7 for the 2019 challenge's
    "TE": 0.025,  # echo time [s]: near T2* of tissue at 3 T, where phase is most precise
    "SNR": 60.0,  # of the magnitude at TE, median in the brain; 0: no noise
}
