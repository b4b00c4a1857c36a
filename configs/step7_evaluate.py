"""Step 7: scores against a reference, beside classical inversions.

python network_model/evaluate.py [file of changed keys] [key=value ...]
"""

optional = ("labelsFile",)  # may be None although the default is not
config = {
    "run": "default",  # name of the run: folders below runs/
    "srcFolder": "runs/{run}/5_finetune",  # step 5's output: chi_round00.nii.gz and chi.nii.gz
    "truthFile": "runs/{run}/0_phantom/head_2/chi.nii.gz",  # reference χ, NIfTI [ppm]
    "labelsFile": "runs/{run}/0_phantom/head_2/labels.nii.gz",  # for region scores; None: without
    # Classical inversions: "tkd", "l2", "wiener", "ndi", "tv", "tv_nonlinear"
    "compare": ["tkd", "l2"],
    "dstFolder": "runs/{run}/7_evaluate",  # scores.csv, comparison.png, a NIfTI per inversion
    # The scan; as long as fieldFile is None, it is the one that step 5 worked on
    "fieldFile": None,  # local field, NIfTI
    "maskFile": None,  # brain mask on the same grid
    "magnitudeFile": None,  # its magnitude, 3-D or 4-D; None: the data weight is the mask
    "unit": "ppm",  # of the field: "ppm", "Hz" (needs b0) or "rad" (needs b0 and te)
    "b0": None,  # field strength [T]; None: from the field's JSON sidecar
    "te": None,  # echo time [s]; None: from the field's JSON sidecar
    "sign": 1,  # -1 for scanners whose phase has the other sign
    "echo": None,  # of a 4-D magnitude, from 0; None: the second
    "b0_dir": None,  # direction of B0 in voxel axes of the file; None: JSON sidecar, else affine
}
