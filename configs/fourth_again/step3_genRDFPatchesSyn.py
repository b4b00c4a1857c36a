"""Step 3 of the fourth network's second training: the map of the third applied twice as channel.

That is what the default gives it (`_corrected` in network_model/inference.py); its first training
had the third's map of one pass. The third alone, and again on its own map:

    git show 8a7ab55:network_model/weights/default.h5 > runs/fourth_again/third.h5
    python -c "import h5py, json; a = h5py.File('runs/fourth_again/third.h5', 'a').attrs; \\
        a['spec'] = json.dumps(json.loads(a['spec']) | {'white_file': None})"
    python network_model/pack.py runs/fourth_again/twice.h5 runs/fourth_again/third.h5 \\
        --below third.h5
"""

from configs.third.step3_genRDFPatchesSyn import config as first

config = first | {
    "run": "fourth_again",
    "firstFile": "runs/fourth_again/twice.h5",
    "patches_per_map": 16,
    "seed": 307,
}
