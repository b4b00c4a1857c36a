"""Scales between physical units and the network's numbers, as the 2020 release set them.

input = 100·field[ppm], output = (100/3)·χ[ppm], in-network kernel 3·D, so that kernel ∗ output is
100·field, the same number that goes in.
"""

import numpy as np

FIELD_SCALE = 100.0  # network units per ppm of field
CHI_SCALE = FIELD_SCALE / 3  # network units per ppm of susceptibility
CHANNEL_SCALE = {
    "field": FIELD_SCALE,
    "mask": 1.0,
    "noise": FIELD_SCALE,
    "structured": FIELD_SCALE / 20,  # twenty times the white noise in a measured field
    "tikhonov": CHI_SCALE,
    "tikhonov_strong": CHI_SCALE,
    "wiener": CHI_SCALE,
    "wiener_cone": CHI_SCALE,
    "tv": CHI_SCALE,
    "first": CHI_SCALE,
    "guided": CHI_SCALE,
    "corrected": CHI_SCALE,
}


def network_input(channels: dict, inputs) -> np.ndarray:
    """Stack channels (X, Y, Z), in ppm, as the network's input (X, Y, Z, C), in its units."""
    out = np.empty((*channels[inputs[0]].shape, len(inputs)), np.float32)
    for i, name in enumerate(inputs):
        np.multiply(channels[name], np.float32(CHANNEL_SCALE[name]), out=out[..., i])
    return out
