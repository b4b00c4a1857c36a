"""Step 5: fine-tuning on one subject.

python network_model/model_finetune/train.py [file of changed keys] [key=value ...]

The defaults are those of the 2020 release but for `mend`; rounds=0 or iterations=0 is plain
inference.
"""

config = {
    "run": "default",  # name of the run: folders below runs/
    "weightsFile": "runs/{run}/4_train/weights.h5",  # step 4's output
    "fieldFile": "runs/{run}/0_phantom/head_2/localfield.nii.gz",  # local field, NIfTI
    "maskFile": "runs/{run}/0_phantom/head_2/mask.nii.gz",  # brain mask on the same grid
    "magnitudeFile": None,  # its magnitude, 3-D or 4-D; None: the data weight is the mask
    "dstFolder": "runs/{run}/5_finetune",  # chi.nii.gz, chi_round*.nii.gz, losses.csv, losses.png
    "unit": "ppm",  # of the field: "ppm", "Hz" (needs b0) or "rad" (needs b0 and te)
    "b0": None,  # field strength [T]; None: from the field's JSON sidecar
    "te": None,  # echo time [s]; None: from the field's JSON sidecar
    "sign": 1,  # -1 for scanners whose phase has the other sign
    "echo": None,  # of a 4-D magnitude, from 0; None: the second, as in the release
    "b0_dir": None,  # direction of B0 in voxel axes of the file; None: JSON sidecar, else affine
    "mend": True,  # leave out field that no source explains, and slow courses of it
    "method": "network",  # weights move; "image": the map does (refine.py); "both": one, then other
    "trainable": "all",  # weights that move: "all", "norm" (scale and shift of the norms) or "last"
    "rounds": 10,  # the map is saved before each
    "iterations": 100,  # of a round
    "learning_rate": 1e-5,  # Adam
    "decay_every": 200,  # iterations after which the learning rate is multiplied by e^−0.1
    "data_weight": 1.0,  # of the data consistency
    "tv_weight": 0.001,  # of the total variation; the release took 0.002 at low SNR
    "seed": 0,  # nothing is drawn but for what Keras may do; a rerun gives the same map
}
