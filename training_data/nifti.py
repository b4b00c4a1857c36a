"""Reading and writing NIfTI: the only file that touches image files.

Every problem of a file (missing, truncated, not finite, of another shape or place) is a ValueError
whose message says what was expected, what was found, in which file, and what to do.
"""

import os
import zlib
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.orientations import apply_orientation, inv_ornt_aff, io_orientation, ornt_transform
from nibabel.spatialimages import HeaderDataError

SUFFIXES = (".nii", ".nii.gz")
MOST_SHEAR = 0.01  # cosine between two axes of a grid up to which they pass for orthogonal


@dataclass(frozen=True)
class Volume:
    """A volume and its place in the scanner.

    Attributes:
        data: (X, Y, Z) or (X, Y, Z, T) float32.
        affine: (4, 4) voxel indices → scanner coordinates [mm].
        voxel_size: edge lengths of a voxel [mm].
        header: NIfTI header the volume came with, or None.
        path: file it came from, for messages.
    """

    data: np.ndarray
    affine: np.ndarray
    voxel_size: tuple[float, float, float]
    header: nib.Nifti1Header | None = None
    path: str = ""


def read_volume(path, ndim: int | tuple[int, ...] = 3, *, finite: bool = True) -> Volume:
    """Read a NIfTI volume as float32.

    Args:
        path: .nii or .nii.gz.
        ndim: dimensions that are acceptable, e.g. 3 or (3, 4); axes of length one at the end
            are dropped first.
        finite: whether NaN and infinity are refused; many tools write NaN outside the brain.

    Raises:
        ValueError: missing, unreadable, truncated, of another dimension, empty, or not finite; or
            an affine without a voxel size from 0.05 to 20 mm, or without orthogonal axes.
    """
    path = Path(path)
    if not path.is_file():
        found = "is a folder" if path.is_dir() else "no such file"
        raise ValueError(f"{path}: {found}; expected a NIfTI volume (.nii or .nii.gz)")
    try:
        image = nib.load(path)
        data = np.asarray(image.dataobj)
        affine = np.asarray(image.affine, float)
    except (
        ImageFileError,
        HeaderDataError,
        EOFError,
        OSError,
        ValueError,
        OverflowError,
        TypeError,
        AttributeError,
        MemoryError,
        zlib.error,
    ) as error:
        raise ValueError(
            f"{path}: not a readable NIfTI volume, or truncated ({error}); "
            "copy or convert the file again"
        ) from error
    if not (np.issubdtype(data.dtype, np.number) or data.dtype == bool) or np.iscomplexobj(data):
        raise ValueError(
            f"{path}: expected real numbers, found {data.dtype}; convert it to float32"
        )
    ndims = (ndim,) if isinstance(ndim, int) else ndim
    return _checked(data, affine, image.header, path, ndims, finite)


def _checked(data, affine, header, path, ndims, finite) -> Volume:
    while data.ndim > min(ndims) and data.shape[-1] == 1:
        data = data[..., 0]
    if data.ndim not in ndims or 0 in data.shape:
        wanted = " or ".join(f"{n}-D" for n in ndims)
        raise ValueError(
            f"{path}: expected a {wanted} volume, found shape {data.shape}; split it, or take one "
            "volume of it"
        )
    with np.errstate(over="ignore", invalid="ignore"):
        data = np.ascontiguousarray(data, dtype=np.float32)
    bad = data.size - int(np.count_nonzero(np.isfinite(data)))
    if bad and finite:
        raise ValueError(
            f"{path}: {bad} voxels are NaN or infinite in float32; "
            "set them to zero and mask them out"
        )
    return Volume(data, affine, _checked_edges(affine, path), header, str(path))


def _checked_edges(affine, path) -> tuple[float, float, float]:
    """Voxel size of an affine [mm] that voxels of right angles can have."""
    axes = affine[:3, :3]
    edges = np.linalg.norm(axes, axis=0)
    voxel_size = tuple(float(v) for v in edges)
    if np.isfinite(affine).all() and not all(0.05 <= v <= 20 for v in voxel_size):
        raise ValueError(
            f"{path}: voxel size {voxel_size} mm; expected 0.05 to 20 mm: check the header's units"
        )
    if not np.isfinite(affine).all() or abs(np.linalg.det(axes)) < 1e-9:
        raise ValueError(f"{path}: the affine is not invertible; set a valid sform or qform")
    cosines = axes.T @ axes / np.outer(edges, edges)
    sheared = float(np.abs(cosines - np.eye(3)).max())
    if sheared > MOST_SHEAR:
        raise ValueError(
            f"{path}: sheared: two axes of the affine have a cosine of {sheared:.3f}, expected 0; "
            "resample it to a grid of orthogonal axes"
        )
    return voxel_size


def read_mask(path, like: Volume | None = None) -> tuple[np.ndarray, Volume]:
    """Read a mask (non-zero = brain) and check that it is on the grid of `like`.

    Returns:
        mask (X, Y, Z) bool, and the volume it came from.

    Raises:
        ValueError: as `read_volume`; also an empty mask or another grid.
    """
    volume = read_volume(path)
    if like is not None:
        check_same_grid(like, volume)
    mask = volume.data != 0
    if not mask.any():
        raise ValueError(f"{path}: the mask is empty; expected non-zero voxels inside the brain")
    return mask, volume


def check_same_grid(a: Volume, b: Volume) -> None:
    """Raise a ValueError unless two volumes have one shape and one place.

    Rounded affines pass: corners may differ by 1 % of a voxel, times the root of the grid's length.
    """
    if a.data.shape[:3] != b.data.shape[:3]:
        raise ValueError(
            f"{b.path}: shape {b.data.shape[:3]} differs from {a.data.shape[:3]} of {a.path}; "
            "resample it to the same grid"
        )
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in a.data.shape[:3]])).reshape(3, -1)
    shift = np.abs((a.affine - b.affine)[:3, :3] @ corners + (a.affine - b.affine)[:3, 3:]).max()
    if shift > 0.01 * max(a.voxel_size) * max(a.data.shape[:3]) ** 0.5:
        raise ValueError(
            f"{b.path}: lies up to {shift:.2f} mm off {a.path} (affines differ); "
            "resample it to the same grid"
        )


def write_volume(path, data, like: Volume | None = None, affine=None) -> None:
    """Write a volume as float32 (uint8 for masks and labels) NIfTI, atomically, without time stamp.

    Args:
        path: .nii or .nii.gz.
        data: (X, Y, Z) array; bool and uint8 stay uint8.
        like: volume whose affine, spatial units and q/sform codes the file takes.
        affine: used without `like`; identity by default.

    Raises:
        ValueError: another suffix than .nii or .nii.gz.
    """
    path = Path(path)
    suffix = next((s for s in reversed(SUFFIXES) if path.name.endswith(s)), None)
    if suffix is None:
        raise ValueError(f"{path}: expected a name that ends in .nii or .nii.gz")
    data = np.asarray(data)
    data = data.astype(np.uint8 if data.dtype in (bool, np.uint8) else np.float32, copy=False)
    image = nib.Nifti1Image(data, like.affine if like else np.eye(4) if affine is None else affine)
    if like is not None and like.header is not None and hasattr(like.header, "get_xyzt_units"):
        # As it is: nibabel has names for known units only.
        image.header["xyzt_units"] = like.header["xyzt_units"]
        forms = _forms(like.header)
        # Each its own where the axes are still those of the file.
        as_read = any(np.allclose(like.affine, own, atol=1e-4) for own, _ in forms.values())
        for name, (own, code) in forms.items():
            getattr(image, f"set_{name}")(own if code and as_read else like.affine, code)
        if not like.header["qform_code"] and not like.header["sform_code"]:
            image.set_sform(like.affine, 2)
    else:
        image.header.set_xyzt_units("mm")
    path.parent.mkdir(parents=True, exist_ok=True)
    # The same name every time, so that what a kill leaves behind is written over.
    temporary = path.with_name(f".{path.name.removesuffix(suffix)}.tmp{suffix}")
    try:
        nib.save(image, temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def scanner_affine(volume: Volume) -> tuple[np.ndarray, str]:
    """Affine to scanner coordinates of a volume as read from its file, and a doubt about it, or "".

    The affine in use is the sform where there is one. Registration leaves there another space
    (code 2 aligned, 3 Talairach, 4 MNI), and the scanner's in the qform (code 1): B0 is along the z
    of that one.
    """
    header = volume.header
    if header is None or not isinstance(header, nib.AnalyzeHeader):
        return volume.affine, ""  # an array, or a format whose one affine is the scanner's
    forms = _forms(header) if isinstance(header, nib.Nifti1Header) else {}
    codes = {name: code for name, (_, code) in forms.items()}
    if not any(codes.values()):
        return volume.affine, "holds no orientation (sform and qform codes are 0)"
    if codes["sform"] > 1 and codes["qform"] == 1:
        affine = forms["qform"][0]
        apart = degrees_between(b0_direction(affine), b0_direction(volume.affine))
        if apart > 1:
            return affine, (
                f"its sform (code {codes['sform']}: another space than the scanner's) and its "
                f"qform (code 1: the scanner's) put B0 {apart:.0f}° apart; the qform was taken"
            )
    return volume.affine, ""


def _forms(header) -> dict[str, tuple[np.ndarray, int]]:
    """Affine (4, 4) and code of a NIfTI header's qform and sform; one that is broken has code 0."""
    forms = {}
    for name in ("qform", "sform"):
        try:
            affine = np.asarray(getattr(header, f"get_{name}")(), float)
            forms[name] = affine, int(header[f"{name}_code"])
        except (HeaderDataError, ValueError):
            forms[name] = np.eye(4), 0
    return forms


def degrees_between(a, b) -> float:
    """Angle between two directions [degree]; B0 has no front and back."""
    cosine = abs(float(np.dot(a, b))) / np.linalg.norm(a) / np.linalg.norm(b)
    return float(np.degrees(np.arccos(min(cosine, 1.0))))


def b0_direction(affine) -> np.ndarray:
    """Direction of B0 (scanner z, the bore) in voxel axes, from an affine; a unit vector."""
    axes = np.asarray(affine, float)[:3, :3]
    axes = axes / np.linalg.norm(axes, axis=0)
    return axes.T[:, 2] / np.linalg.norm(axes.T[:, 2])


def to_canonical(volume: Volume) -> Volume:
    """The same volume with its axes flipped and permuted closest to right, anterior, superior."""
    ornt = io_orientation(volume.affine)
    data = np.ascontiguousarray(apply_orientation(volume.data, ornt))
    affine = volume.affine @ inv_ornt_aff(ornt, volume.data.shape[:3])
    size = tuple(float(v) for v in np.linalg.norm(affine[:3, :3], axis=0))
    return Volume(data, affine, size, volume.header, volume.path)


def from_canonical(data, like: Volume) -> np.ndarray:
    """Bring an array on the grid of ``to_canonical(like)`` back to the axes of `like`."""
    canonical = np.array([[0, 1], [1, 1], [2, 1]])
    # io_orientation maps the file's axes to canonical ones; its inverse is the transform back.
    back = ornt_transform(canonical, io_orientation(like.affine))
    return np.ascontiguousarray(apply_orientation(data, back))
