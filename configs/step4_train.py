"""Step 4: domain-adaptive training.

python network_model/train_model/train.py [file of changed keys] [key=value ...]
"""

config = {
    "run": "default",  # name of the run: folders below runs/
    "datasets_path": "runs/{run}/3_patches/patches.h5",  # step 3's output: the source domain
    "dstFolder": "runs/{run}/4_train",  # weights.h5, state.h5, log.csv, curve.png, config.json
    "seed": 0,  # of weights, split, order of the patches and crops of the target
    # Network, see unet.py
    "architecture": "unet",  # or "nonlocal_gated": the cited paper's (arXiv 1904.05493)
    "inputs": ["field", "mask"],  # channels; those beyond field and mask must be in the patch file
    "residual": None,  # input channel that the output is a correction to, e.g. "tv"
    "linear_path": False,  # True: adds a learned weighted sum of the inputs to the output
    "firstFile": None,  # weights whose map is the channel "first"; kept in the new weights
    "first_share": 0.0,  # of that map in the mean where errors are white; 1: structured ones only
    "filters": 24,  # of the first level, doubled at each further one
    "depth": 5,  # levels
    "convs_per_level": 1,  # convolutions per level, down and up
    "tile": 0,  # inference in tiles of this edge, that of the patches; 0: the whole volume at once
    "shuffle": 1,  # 2: work on half the grid, blocks of 2³ voxels as channels
    "norm": "domain",  # one batch norm per domain; or "batch", "group", "instance", "none"
    "negative_slope": 0.0,  # of the ReLU; above 0 no feature can die
    "use_bias": True,  # False with norm="none": the network scales with its input
    # Target domain: the field of a real scan, never its χ
    "fieldFile": None,  # local field, NIfTI; None: train on the source domain alone
    "maskFile": None,  # brain mask of it
    "magnitudeFile": None,  # its magnitude, 3-D or 4-D; None: W is the mask
    "unit": "ppm",  # of the field: "ppm", "Hz" (needs b0) or "rad" (needs b0 and te)
    "b0": None,  # field strength [T]; None: from the field's JSON sidecar
    "te": None,  # echo time [s]; None: from the field's JSON sidecar
    "sign": 1,  # -1 for scanners whose phase has the other sign
    "echo": None,  # of a 4-D magnitude, from 0; None: the second
    "b0_dir": None,  # direction of B0 in voxel axes of the file; None: JSON sidecar, else affine
    "mend": True,  # leave out field that no source explains, and slow courses of it
    "target_crop": "2020",  # centred in x and y, random in z; or "random" in all three
    # Losses
    "source_loss": "l1",  # mean |χ_S − label|; "l1_rms" adds the root mean square of a patch
    "source_balance": None,  # channel whose error a patch is weighed by: all noises count alike
    "source_weight": 1.0,  # of the source loss
    "xsim_weight": 0.0,  # of 1 − XSIM of the source: local structure
    "data_weight": 20.0,  # of the target's data consistency
    "tv_weight": 0.05,  # of the target's total variation
    # Training
    "learning_rate": 1e-4,  # Adam
    "schedule": "2020",  # e^−0.1 every 200 batches; or "linear": constant, then linear to zero
    "decay_share": 0.3,  # share of all batches in which "linear" decays
    "clipnorm": 0.0,  # largest norm of a gradient; 0: no limit
    "batch_size": 2,  # patches a step, over all GPUs
    "epochs": 6,  # times through the training patches, or through steps_per_epoch batches
    "steps_per_epoch": 0,  # 0: all training patches
    "crop": None,  # [x, y, z]: window of this size out of each patch, where drawn anew; None: all
    "resident": False,  # keep all patches in the GPU's memory; needs KERAS_BACKEND=torch
    "workers": 1,  # threads that make batches while the network trains
    "maps": None,  # names of the maps to train on and validate with; None: all of the patch file
    "validation_split": 0.1,  # share of the maps (not of the patches) kept for validation
    "validation_steps": 0,  # batches of a validation; 0: all
    "patience": 50,  # epochs without a better validation loss before the end
    "augment": False,  # flips of x, y and z and exchange of x and y, drawn per patch
    "sign_chance": 0.0,  # share of patches whose field and χ change sign: unusual tissue too
    "mixed_precision": False,  # half precision where it does no harm
    "half": "bfloat16",  # that one; or "float16", for a GPU older than Ampere
    "gpus": 0,  # TensorFlow MirroredStrategy over so many GPUs; 0: what Keras takes by itself
    "warm_start_path": None,  # weights to begin with
    "linear_start": 0,  # patches that set the linear path by least squares before step 1; 0: none
    "verbose": 1,  # 1: a progress bar, 2: a line per epoch, 0: silent
    "weights_dtype": "float32",  # of weights.h5; "float16" halves it
}
