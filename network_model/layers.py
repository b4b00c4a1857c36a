"""Keras layers of the physics, of the networks and of the cited paper.

Backend-neutral but for the 3-D FFT.
"""

import keras
import numpy as np
from keras import ops

from training_data.dipole import dipole_kernel


def fft3d(x, inverse: bool = False):
    """Complex 3-D FFT over the last three axes, on the Keras backend in use.

    Raises:
        NotImplementedError: a backend other than tensorflow, jax and torch.
    """
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        return tf.signal.ifft3d(x) if inverse else tf.signal.fft3d(x)
    if backend == "jax":
        import jax.numpy as jnp

        return (jnp.fft.ifftn if inverse else jnp.fft.fftn)(x, axes=(-3, -2, -1))
    if backend == "torch":
        import torch

        return (torch.fft.ifftn if inverse else torch.fft.fftn)(x, dim=(-3, -2, -1))
    raise NotImplementedError(f"no 3-D FFT for the Keras backend {backend!r}")


@keras.saving.register_keras_serializable("qsminvnet")
class CalFMLayer(keras.layers.Layer):
    """Field of a susceptibility map inside the network: kernel 3·D ∗ χ, circular.

    With the scales of `scaling.py` the output is 100·field [ppm] for an input of (100/3)·χ [ppm].

    Args:
        shape: grid (X, Y, Z) that inputs will have.
        voxel_size: 3 floats [mm].
        b0_dir: direction of B0 in voxel axes.

    Input and output: (batch, X, Y, Z, 1) float32.
    """

    def __init__(self, shape, voxel_size, b0_dir=(0.0, 0.0, 1.0), **kwargs):
        kwargs.setdefault("dtype", "float32")  # an FFT in half precision loses the field
        super().__init__(**kwargs)
        self.shape = tuple(int(n) for n in shape)
        self.voxel_size = tuple(float(v) for v in voxel_size)
        self.b0_dir = tuple(float(b) for b in b0_dir)
        self.kernel = 3 * dipole_kernel(self.shape, self.voxel_size, self.b0_dir, real=False)

    def call(self, x):
        """Field (batch, X, Y, Z, 1) of χ of that shape, both in network units."""
        volume = ops.cast(x[..., 0], "complex64")
        spectrum = fft3d(volume) * ops.cast(self.kernel[None], "complex64")
        return ops.real(fft3d(spectrum, inverse=True))[..., None]

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        geometry = {"shape": self.shape, "voxel_size": self.voxel_size, "b0_dir": self.b0_dir}
        return {**super().get_config(), **geometry}


@keras.saving.register_keras_serializable("qsminvnet")
class SpaceToDepth(keras.layers.Layer):
    """Blocks of r³ voxels as channels: (batch, X, Y, Z, C) to (batch, X/r, Y/r, Z/r, r³·C).

    Convolutions then see r times as far at an r³-th of the cost; the way back is `DepthToSpace`.
    Shi 2016, arXiv 1609.05158; for restoration Zhang 2018 (FFDNet), arXiv 1710.04026.
    """

    def __init__(self, factor: int, **kwargs):
        super().__init__(**kwargs)
        self.factor = int(factor)

    def call(self, x):
        """Blocks of (batch, X, Y, Z, C) as channels; X, Y and Z are multiples of the factor."""
        r, (_, *size, channels) = self.factor, ops.shape(x)
        a, b, c = (n // r for n in size)
        x = ops.reshape(x, (-1, a, r, b, r, c, r, channels))
        x = ops.transpose(x, (0, 1, 3, 5, 2, 4, 6, 7))
        return ops.reshape(x, (-1, a, b, c, r**3 * channels))

    def compute_output_shape(self, input_shape):
        """Shape (batch, X/r, Y/r, Z/r, r³·C) for (batch, X, Y, Z, C)."""
        batch, *size, channels = input_shape
        size = [n and n // self.factor for n in size]
        return (batch, *size, channels * self.factor**3)

    def get_config(self):
        return {**super().get_config(), "factor": self.factor}


@keras.saving.register_keras_serializable("qsminvnet")
class DepthToSpace(SpaceToDepth):
    """Channels as blocks of r³ voxels: the inverse of `SpaceToDepth`."""

    def call(self, x):
        """Channels of (batch, X, Y, Z, r³·C) as voxels, (batch, r·X, r·Y, r·Z, C)."""
        r, (_, a, b, c, depth) = self.factor, ops.shape(x)
        x = ops.reshape(x, (-1, a, b, c, r, r, r, depth // r**3))
        x = ops.transpose(x, (0, 1, 4, 2, 5, 3, 6, 7))
        return ops.reshape(x, (-1, r * a, r * b, r * c, depth // r**3))

    def compute_output_shape(self, input_shape):
        """Shape (batch, r·X, r·Y, r·Z, C) for (batch, X, Y, Z, r³·C)."""
        batch, *size, depth = input_shape
        size = [n and n * self.factor for n in size]
        return (batch, *size, depth // self.factor**3)


@keras.saving.register_keras_serializable("qsminvnet")
class JoinedConv3D(keras.layers.Layer):
    """3³ convolution of features doubled along each axis and joined with a skip connection's.

    Conv3D(Concatenate([UpSampling3D(2)(below), skip])), the same kernel and the same numbers. The
    doubled ones have blocks of 2³ equal voxels, so that 8 products do for 27: a transposed
    convolution of stride 2 whose kernel of 4³ holds sums of the 3³. Nearest-neighbour doubling
    before a convolution: Odena et al. 2016, doi:10.23915/distill.00003.

    Args:
        filters: features of the output.
        use_bias, kernel_initializer, activation: as of `keras.layers.Conv3D`.

    Input: a list of (batch, X, Y, Z, C) and (batch, 2X, 2Y, 2Z, S); output (batch, 2X, 2Y, 2Z,
    filters).
    """

    def __init__(
        self, filters, use_bias=True, kernel_initializer="glorot_uniform", activation=None, **kwargs
    ):
        super().__init__(**kwargs)
        self.filters, self.use_bias = int(filters), bool(use_bias)
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.activation = keras.activations.get(activation)

    def build(self, input_shape):
        """Make the weights for the channels of both inputs."""
        self.below = input_shape[0][-1]
        shape = (3, 3, 3, self.below + input_shape[1][-1], self.filters)
        # Not cast to half precision before its sums are taken.
        self.kernel = self.add_weight(shape, self.kernel_initializer, name="kernel", autocast=False)
        if self.use_bias:
            self.bias = self.add_weight((self.filters,), "zeros", name="bias")

    def call(self, inputs):
        """Convolution of (below, skip)."""
        below, skip = inputs
        doubled = self.kernel[:, :, :, : self.below]
        for axis in range(3):
            a, b, c = ops.split(doubled, 3, axis=axis)
            doubled = ops.concatenate([c, b + c, a + b, a], axis=axis)
        doubled = ops.cast(ops.swapaxes(doubled, 3, 4), self.compute_dtype)
        joined = ops.cast(self.kernel[:, :, :, self.below :], self.compute_dtype)
        out = ops.conv_transpose(below, doubled, strides=2, padding="same")
        out = out + ops.conv(skip, joined, padding="same")
        return self.activation(out + self.bias if self.use_bias else out)

    def compute_output_shape(self, input_shape):
        """Shape (batch, 2X, 2Y, 2Z, filters) for the list of both."""
        return (*input_shape[1][:-1], self.filters)

    def get_config(self):
        """Arguments of the constructor, for `from_config`."""
        own = {
            "filters": self.filters,
            "use_bias": self.use_bias,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "activation": keras.activations.serialize(self.activation),
        }
        return {**super().get_config(), **own}


@keras.saving.register_keras_serializable("qsminvnet")
class NonLocal(keras.layers.Layer):
    """Non-local block: self-attention over all positions, added to its input.

    Embedded Gaussian form of Wang 2018 (arXiv 1711.07971), zero at the start so that a network
    begins as it would without. Input and output: (batch, X, Y, Z, C).
    """

    def build(self, input_shape):
        """Make the weights for the channels of (batch, X, Y, Z, C)."""
        channels, inner = input_shape[-1], max(1, input_shape[-1] // 2)
        shapes = {"query": (channels, inner), "key": (channels, inner), "value": (channels, inner)}
        for name, shape in shapes.items():
            setattr(self, name, self.add_weight(shape, "glorot_uniform", name=name))
        self.back = self.add_weight((inner, channels), "zeros", name="back")

    def call(self, x):
        """Features (batch, X, Y, Z, C) with what all other positions add to each."""
        shape = ops.shape(x)
        flat = ops.reshape(x, (shape[0], -1, shape[-1]))
        query, key, value = (ops.matmul(flat, w) for w in (self.query, self.key, self.value))
        score = ops.matmul(query, ops.transpose(key, (0, 2, 1))) / np.sqrt(self.query.shape[1])
        mixed = ops.matmul(ops.softmax(score, -1), value)
        return x + ops.reshape(ops.matmul(mixed, self.back), shape)
