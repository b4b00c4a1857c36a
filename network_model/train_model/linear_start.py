"""Least squares before the first step of training: how much of the network and of each channel."""

import keras
import numpy as np

from network_model.train_model.datagenerator import DataGenerator, PatchFile
from training_data.channels import UNSIGNED

RIDGE = 1e-6  # added to the normal equations, over their mean diagonal


def fit_linear_path(model: keras.Model, spec: dict, patches: PatchFile, indices, config: dict):
    """Set a network's linear path and the scale of its last convolution by least squares.

    Its answer becomes s·network(x) + Σ a_c·x_c with the s and a_c of least squared error over some
    training patches, each weighed as in training. A channel that is new to weights from another
    network then counts from the first step, where from zero it takes thousands.

    Args:
        model: training model, with a linear path; its weights are set.
        spec: specification of its network.
        patches: file of step 3; indices: of the patches to train on.
        config: of step 4: `linear_start` is the number of patches.

    Returns:
        name of the channel → a_c, and "network" → s, rounded for the log.
    """
    count = max(config["linear_start"] // config["batch_size"], 1)
    batches = DataGenerator(patches, indices, config | {"validation_steps": count}, None, -1)
    names = [name for name in spec["inputs"] if name not in UNSIGNED]
    places = [spec["inputs"].index(name) for name in names]
    matrix, right = np.zeros((len(names) + 1,) * 2), np.zeros(len(names) + 1)
    for i in range(len(batches)):
        batch = keras.tree.map_structure(keras.ops.convert_to_numpy, batches[i])
        inputs, truth, *weights = batch
        chi = np.asarray(model.predict_on_batch(inputs)["source_chi"])
        weight = weights[0]["source_chi"] if weights else np.ones(len(chi))
        for x, mask, out, label, w in zip(
            inputs["source_x"], inputs["source_mask"], chi, truth["source_chi"], weight, strict=True
        ):
            inside = mask[..., 0] > 0
            columns = np.column_stack([x[inside][:, places], out[inside]]) * float(w)
            matrix += columns.T @ columns
            right += columns.T @ (label[inside][:, 0] * w)
    matrix += RIDGE * np.trace(matrix) / len(matrix) * np.eye(len(matrix))
    *shares, scale = np.linalg.solve(matrix, right)
    last, path = model.get_layer("last"), model.get_layer("linear_path")
    last.set_weights([w * scale for w in last.get_weights()])
    kernel = path.get_weights()[0] * scale
    if spec["residual"]:  # is in the network's answer with a share of one, whatever the last layer
        kernel[spec["inputs"].index(spec["residual"]), 0] += scale - 1
    kernel[places, 0] += shares
    path.set_weights([kernel])
    found = (round(float(v), 3) for v in (*shares, scale))
    return dict(zip([*names, "network"], found, strict=True))
