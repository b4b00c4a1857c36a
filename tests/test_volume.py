"""Boxes, crops and patches: round trips, coverage, errors."""

import numpy as np
import pytest

from training_data.volume import (
    bounding_box,
    crop_pad,
    next_fast_shape,
    pad_widths,
    padded_shape,
    patch_corners,
    uncrop,
)


def test_bounding_box_is_the_smallest():
    mask = np.zeros((9, 12, 7), bool)
    mask[2, 5, 6] = mask[7, 3, 0] = True
    assert bounding_box(mask) == (slice(2, 8), slice(3, 6), slice(0, 7))


def test_empty_mask_is_an_error():
    with pytest.raises(ValueError, match="mask is empty"):
        bounding_box(np.zeros((3, 4, 5), bool))


@pytest.mark.parametrize("shape", [(4, 4, 4), (9, 8, 20), (16, 3, 7), (1, 1, 1)])
@pytest.mark.parametrize("channels", [(), (2,)])
def test_crop_and_uncrop_are_inverse(shape, channels):
    x = np.zeros((13, 10, 17, *channels), np.float32)
    box = (slice(2, 9), slice(1, 10), slice(5, 12))
    x[box] = np.random.default_rng(0).standard_normal(x[box].shape)
    cut = crop_pad(x, box, shape)
    assert cut.shape == (*(max(n, s.stop - s.start) for n, s in zip(shape, box, strict=True)),
                         *channels)  # fmt: skip
    assert cut.flags.c_contiguous
    assert np.abs(cut).sum() == pytest.approx(np.abs(x).sum())
    np.testing.assert_array_equal(uncrop(cut, box, x.shape[:3]), x)


def test_padding_is_centred():
    assert pad_widths((3, 4, 9), (6, 4, 2)) == [(1, 2), (0, 0), (0, 0)]


@pytest.mark.parametrize(
    ("shape", "patch", "stride"),
    [
        ((20, 17, 31), (8, 8, 8), (4, 5, 8)),
        ((8, 9, 10), (8, 8, 8), (32, 32, 32)),
        ((23, 16, 19), (16, 5, 7), (16, 1, 3)),
        ((128, 146, 131), (128, 128, 128), (32, 32, 32)),
    ],
)
def test_patches_cover_the_volume(shape, patch, stride):
    corners = patch_corners(shape, patch, stride)
    assert (corners >= 0).all()
    assert (corners + patch <= shape).all()
    assert len(np.unique(corners, axis=0)) == len(corners)
    for axis in range(3):  # corners are a product of three axes
        starts = np.unique(corners[:, axis])
        assert np.diff(starts).max(initial=0) <= stride[axis]
    if all(s <= p for s, p in zip(stride, patch, strict=True)):
        seen = np.zeros(shape, bool)
        for x, y, z in corners:
            seen[x : x + patch[0], y : y + patch[1], z : z + patch[2]] = True
        assert seen.all()


def test_a_patch_larger_than_the_volume_is_an_error():
    with pytest.raises(ValueError, match="smaller than the patch"):
        patch_corners((8, 7, 9), (8, 8, 8), (4, 4, 4))
    with pytest.raises(ValueError, match="stride"):
        patch_corners((8, 8, 9), (8, 8, 8), (4, 0, 4))


def test_padded_shape():
    assert padded_shape((17, 16, 3), 8) == (24, 16, 8)
    assert padded_shape((17, 40, 3), 8, at_least=32) == (32, 40, 32)


def test_fast_shapes_have_small_factors():
    for n in range(1, 200):
        fast = next_fast_shape((n,))[0]
        rest = fast
        for p in (2, 3, 5):
            while rest % p == 0:
                rest //= p
        assert fast >= n
        assert rest == 1
