"""Boxes, crops and patches of volumes: index arithmetic shared by all steps."""

import numpy as np
import scipy.fft

from training_data.backend import array_module, cores


def bounding_box(mask) -> tuple[slice, slice, slice]:
    """Smallest box that holds every non-zero voxel of a mask (X, Y, Z).

    Raises:
        ValueError: the mask is empty.
    """
    box = []
    for axis in range(3):
        hit = np.flatnonzero(mask.any(axis=tuple(i for i in range(3) if i != axis)))
        if hit.size == 0:
            raise ValueError("the mask is empty: expected at least one voxel different from zero")
        box.append(slice(int(hit[0]), int(hit[-1]) + 1))
    return tuple(box)


def check_size(key: str, size, least: int) -> None:
    """Raise a ValueError unless a size is three whole numbers, none below `least`."""
    whole = isinstance(size, (list, tuple)) and all(isinstance(n, int) for n in size)
    if not whole or len(size) != 3 or min(size) < least:
        raise ValueError(f"{key} {size!r}: expected three whole numbers of at least {least}")


def pad_widths(size, shape) -> list[tuple[int, int]]:
    """Zeros before and after along each axis that bring `size` to at least `shape`, centred."""
    extra = [max(0, int(n) - int(s)) for s, n in zip(size, shape, strict=True)]
    return [(e // 2, e - e // 2) for e in extra]


def crop_pad(x, box, shape):
    """Cut a box out of the first three axes and zero-pad it, centred, to at least `shape`.

    Nothing of the box is ever cut off: an axis longer than `shape` keeps its length.
    """
    xp, cut = array_module(x), x[box]
    widths = pad_widths(cut.shape[:3], shape) + [(0, 0)] * (x.ndim - 3)
    return xp.pad(cut, widths) if any(sum(w) for w in widths) else xp.ascontiguousarray(cut)


def uncrop(x, box, shape):
    """Inverse of `crop_pad`: put the box back into a volume of zeros of the original `shape`."""
    out = array_module(x).zeros((*shape, *x.shape[3:]), x.dtype)
    size = [s.stop - s.start for s in box]
    inner = tuple(
        slice(w[0], w[0] + n) for w, n in zip(pad_widths(size, x.shape[:3]), size, strict=True)
    )
    out[box] = x[inner]
    return out


def resample(x, shape):
    """A volume (X, Y, Z) on another number of voxels of the same extent, by its Fourier series.

    What the coarser grid can't hold is cut off; x is continued periodically (`scipy.signal`).
    """
    from scipy import signal  # half a second that most runs do without

    with scipy.fft.set_workers(cores()):
        for axis, n in enumerate(shape):
            x = signal.resample(x, n, axis=axis)
    return x


def padded_shape(size, multiple: int, at_least: int = 0) -> tuple[int, ...]:
    """`size` rounded up to a multiple along each axis, and to at least `at_least`."""
    return tuple(max(-(-int(n) // multiple) * multiple, at_least) for n in size)


def next_fast_shape(shape) -> tuple[int, ...]:
    """`shape` rounded up, axis by axis, to sizes with fast real FFTs (2, 3, 5-smooth)."""
    return tuple(scipy.fft.next_fast_len(int(n), real=True) for n in shape)


def window(corner, size) -> tuple[slice, ...]:
    """Slices of the patch of a size (X, Y, Z) at a corner."""
    return tuple(slice(int(c), int(c) + int(n)) for c, n in zip(corner, size, strict=True))


def patch_corners(shape, patch, stride) -> np.ndarray:
    """First corners of patches that cover a volume.

    Along each axis the corners are stride apart; the last one is moved back so that its patch
    ends with the volume.

    Args:
        shape: volume (X, Y, Z), at least as large as the patch.
        patch: patch size (X, Y, Z).
        stride: distance between corners, called ``overlap_size`` in the 2020 release.

    Returns:
        corners, (N, 3) int.

    Raises:
        ValueError: the volume is smaller than the patch, or the stride is not positive.
    """
    if any(n < p for n, p in zip(shape, patch, strict=True)):
        raise ValueError(
            f"volume {tuple(shape)} is smaller than the patch {tuple(patch)}: pad it first"
        )
    if min(stride) < 1:
        raise ValueError(f"stride {tuple(stride)}: expected positive whole numbers")
    axes = [
        sorted({*range(0, n - p + 1, s), n - p})
        for n, p, s in zip(shape, patch, stride, strict=True)
    ]
    return np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)
