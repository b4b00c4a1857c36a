"""The losses of training; named, backend-neutral, in network units.

`y_true` of the target domain stacks [100·field, W, mask] along the last axis.
"""

import keras
from keras import ops

from network_model.scaling import CHI_SCALE

_register = keras.saving.register_keras_serializable("qsminvnet")


def gradient_l1(x):
    """Mean |∇x| summed over the three axes, by forward differences: total variation, anisotropic.

    Args:
        x: (batch, X, Y, Z, 1).
    """
    return (
        ops.mean(ops.abs(x[:, 1:] - x[:, :-1]))
        + ops.mean(ops.abs(x[:, :, 1:] - x[:, :, :-1]))
        + ops.mean(ops.abs(x[:, :, :, 1:] - x[:, :, :, :-1]))
    )


@_register
class SourceL1(keras.losses.Loss):
    """mean |χ_S − label| over the patch (REFERENCE weight 1)."""

    def call(self, y_true, y_pred):
        return ops.mean(ops.abs(y_pred - y_true), axis=(1, 2, 3, 4))


@_register
class SourceL1RMS(keras.losses.Loss):
    """mean |e| + root mean square e, e = χ_S − label, per patch.

    The second term is what NRMSE scores; being a norm it grows no faster than a strong source's
    error does, so that one haemorrhage in a batch does not drown the rest.
    """

    def call(self, y_true, y_pred):
        """Loss (batch,) of χ against its label, both (batch, X, Y, Z, 1)."""
        error = y_pred - y_true
        axes = (1, 2, 3, 4)
        rms = ops.sqrt(ops.mean(ops.square(error), axis=axes) + 1e-8)
        return ops.mean(ops.abs(error), axis=axes) + rms


@_register
class Dissimilarity(keras.losses.Loss):
    """1 − XSIM inside the mask, on every second window of 5×5×5 voxels.

    Similarity of local structure with constants made for QSM, as `metrics.xsim` scores it: an
    error norm alone is content with a map that is too smooth. Milovic 2025, doi:10.1002/mrm.30271.
    """

    def call(self, y_true, y_pred):
        """Loss (batch,) of χ against its label, both (batch, X, Y, Z, 1); no label is 0 inside."""
        x, t = y_pred, y_true
        inside = ops.cast(ops.not_equal(t, 0), x.dtype)
        maps = ops.concatenate([x, t, x * x, t * t, x * t, inside], axis=-1)
        for axis in range(3):
            size, stride = (tuple(n if i == axis else 1 for i in range(3)) for n in (5, 2))
            maps = ops.average_pool(maps, size, stride, padding="same")
        mean_x, mean_t, xx, tt, xt, inside = (maps[..., i] for i in range(6))
        c1, c2 = (0.01 * CHI_SCALE) ** 2, (0.001 * CHI_SCALE) ** 2
        top = (2 * mean_x * mean_t + c1) * (2 * (xt - mean_x * mean_t) + c2)
        variances = ops.maximum(xx - mean_x**2 + tt - mean_t**2, 0)
        bottom = (mean_x**2 + mean_t**2 + c1) * (variances + c2)
        axes = (1, 2, 3)
        similar = ops.sum(inside * top / bottom, axis=axes)
        return 1 - similar / ops.maximum(ops.sum(inside, axis=axes), 1)


@_register
class NDIErr(keras.losses.Loss):
    """mean |W·(e^{jy} − e^{jŷ})|² inside the mask: nonlinear data consistency.

    |e^{ja} − e^{jb}|² = 4 sin²((a − b)/2), which keeps float32 exact for small differences.
    """

    def call(self, y_true, y_pred):
        """Loss (batch,) of a field (batch, X, Y, Z, 1) against [100·field, W, mask]."""
        field, weight, mask = y_true[..., :1], y_true[..., 1:2], y_true[..., 2:]
        misfit = ops.square(weight * mask * 2 * ops.sin((y_pred - field) / 2))
        axes = (1, 2, 3, 4)
        return ops.sum(misfit, axis=axes) / ops.maximum(ops.sum(mask, axis=axes), 1)


@_register
class TotalVariation(keras.losses.Loss):
    """mean |∇χ_T| summed over x, y, z by forward differences; `y_true` is not used."""

    def call(self, y_true, y_pred):
        return gradient_l1(y_pred)


SOURCE_LOSSES = {"l1": SourceL1, "l1_rms": SourceL1RMS}
