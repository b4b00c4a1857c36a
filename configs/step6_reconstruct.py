"""Step 6: a trained network on any scan; defaults of the options that hold numbers.

python network_model/reconstruct.py FIELD MASK -o CHI [options]; --config FILE for changed keys
"""

config = {
    "weightsFile": "network_model/weights/default.h5",  # the network that is shipped
    "unit": "ppm",  # of the field: "ppm", "Hz" (needs b0) or "rad" (needs b0 and te)
    "b0": None,  # field strength [T]; None: from the field's JSON sidecar
    "te": None,  # echo time [s]; None: from the field's JSON sidecar
    "sign": 1,  # -1 for scanners whose phase has the other sign
    "echo": None,  # of a 4-D magnitude, from 0; None: the second, as in the 2020 release
    "b0_dir": None,  # direction of B0 in voxel axes of the file; None: JSON sidecar, else affine
    "memory_gb": 8.0,  # tiles where the whole box needs more [GiB]
    # Mean over mirror images: all eight of a whole volume; tiles are mirrored in turn
    "mirrors": True,
    # Resample for the network: "on" (and turn to B0 ∥ z), "off", "both" (mean of the maps on the
    # scan's grid and on cubes), "auto" ("on" for plain networks, "both" where voxels are elongated
    # or coarse)
    "align": "auto",
    "align_voxel_mm": 1.0,  # voxel edge that plain networks are trained at [mm]
    "reference": "none",  # subtract the mean of the "brain" or of a mask file; "none"
    # Fine-tuning of the weights (step 5), off by default: minutes, and little beyond refinement. Of
    # several networks the first one's move, and the others are given its new map.
    "finetune": 0,  # iterations
    "learning_rate": 1e-4,  # Adam; ten times step 5's, because a scan has hundreds of iterations
    "decay_every": 200,  # iterations after which the learning rate is multiplied by e^−0.1
    "data_weight": 1.0,  # of the data consistency
    "tv_weight": 0.001,  # of the total variation
    "trainable": "all",  # weights that move: "all", "norm" or "last"
    "mend": True,  # leave out field that no source explains (mending.py)
    # Refinement of the map (refine.py): seconds
    "refine": True,
    "refine_options": {},  # changed keywords of refine(), e.g. {"iterations": 40}
    # --bids: names of files below the study, best first; * also matches across folders. The files
    # of one scan are told by their entities (sub-, ses-, acq-, run- ...).
    "fieldPatterns": [
        "*_localfield.nii*",  # QSMxT [ppm], SEPIA [Hz]
        "*_fieldmap-local.nii*",  # qsm-forward
        "*_desc-local*_fieldmap.nii*",
    ],
    "maskPatterns": [
        "*_bgmask.nii*",  # QSMxT: where the background field was removed
        "*_mask_localfield.nii*",  # SEPIA
        "*_desc-brain_mask.nii*",
        "*_mask.nii*",
        "*_mask_brain.nii*",
    ],
    "magnitudePatterns": [
        "*_part-mag*_MEGRE.nii*",  # raw, a file per echo
        "*_part-mag*_GRE.nii*",
        "*_part-mag*_T2starw.nii*",
        "*_mag.nii*",  # QSMxT
        "*_magnitude.nii*",
    ],
    "labelsPatterns": [],  # regions for the reports, e.g. ["*_dseg.nii*"]; same grid as the field
    "seed": 0,  # of Keras; nothing is drawn by default
}
