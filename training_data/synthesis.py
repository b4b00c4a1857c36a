"""One synthetic susceptibility map from a χ map, a phantom or random labels: the chain of step 1.

Every stage draws from a stream of its own, spawned from ``default_rng([seed, index])``: map 37 is
the same alone, in a run or on another worker, and an option switched on leaves the rest as it was.
"""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from training_data import augment
from training_data.dipole import dipole_kernel
from training_data.finescan import MOSTLY_BRAIN, SAMPLINGS, block_mean, sampled
from training_data.nifti import Volume, b0_direction, read_mask, read_volume, to_canonical
from training_data.phantom import LEAST_SHAPE, make_head
from training_data.randomlabels import make_random_labels
from training_data.smv import erode
from training_data.volume import bounding_box, check_size

KINDS = ("chi_map", "phantom", "random_labels", "flat_phantom")
STAGES = (
    "kind", "grid", "anatomy", "elastic", "flips", "contrast", "sources", "veins", "mask", "tilt",
    "fine",
)  # fmt: skip
# Stands for χ = 0 inside the mask, so that the mask can be read off χ ≠ 0 after a transform.
TINY = np.float32(1e-12)


@dataclass(frozen=True)
class SyntheticMap:
    """A synthetic map.

    Attributes:
        chi: susceptibility [ppm] and its grid, relabelled where the config asks for it.
        mask: (X, Y, Z) bool.
        record: what was drawn, for `sample.json`.
        fine: susceptibility [ppm] on half the voxel edge, (2X, 2Y, 2Z), of which `chi` is what a
            voxel holds (`finescan.sampled`); None where the map was drawn on its own grid.
    """

    chi: Volume
    mask: np.ndarray
    record: dict
    fine: Volume | None = None


def read_source(config: dict) -> Volume | None:
    """χ·mask of the map named by `chiFile` and `maskFile`, or None where the run needs no map.

    Its axes are turned closest to right, anterior, superior, so that `elastic` moves the same plane
    however the file is stored.

    Raises:
        ValueError: a missing or bad file, an empty mask, or a mask on another grid.
    """
    if config["shape"] is not None and not config["mixture"].get("chi_map"):
        return None
    volume = read_volume(config["chiFile"])
    mask = volume.data != 0
    if config["maskFile"]:
        mask, _ = read_mask(config["maskFile"], like=volume)
    chi = np.where(mask & (volume.data == 0), TINY, volume.data) * mask
    if not mask.any():
        raise ValueError(f"{config['chiFile']}: all voxels are zero; expected χ in ppm")
    return to_canonical(Volume(chi, volume.affine, volume.voxel_size, volume.header, volume.path))


def check_options(config: dict) -> None:
    """Raise a ValueError for an option that no map could be made with."""
    rng = np.random.default_rng(0)
    empty = np.zeros((4, 4, 4), np.float32)
    if unknown := set(config["mixture"]) - set(KINDS):
        raise ValueError(f"mixture: unknown {sorted(unknown)}; expected some of {', '.join(KINDS)}")
    augment.pick(config["mixture"], rng, "mixture")
    augment.elastic(empty, rng, config["elastic"], *_elastic_shares(config))
    augment.draw_contrast(rng, config["contrasts"])
    for key in ("sourceAxes", "sourceRange", "voxel_size_range"):
        _check_range(key, config[key], whole=key == "sourceAxes")
    augment.random_source(empty == 0, (1, 1, 1), rng, config["sourceShapes"], config["sourceAxes"])
    if min(config["positiveChance"], config["negativeChance"]) < 0 or (
        config["positiveChance"] + config["negativeChance"] > 1
    ):
        raise ValueError("positiveChance and negativeChance: expected shares that sum to at most 1")
    for key in ("fineChance", "anisotropicChance"):
        if not 0 <= config[key] <= 1:
            raise ValueError(f"{key} {config[key]}: expected a number from 0 to 1")
    for key in ("number", "seed", "first", "erosionRadius", "veins", "maskErosion", "maskHoles",
                "positiveNumber", "negativeNumber", "sourceValueSd", "tilt_deg"):  # fmt: skip
        if config[key] < (key == "number"):
            raise ValueError(f"{key} {config[key]}: expected {1 if key == 'number' else 0} or more")
    if config["shape"] is not None:
        check_size("shape", config["shape"], LEAST_SHAPE)
    dipole_kernel((2, 2, 2), config["voxelSize"])


def _check_range(key, value, whole):
    """Two positive numbers in order, or None for a range that is off."""
    if value is None and not whole:
        return
    kinds = int if whole else (int, float)
    if not (
        isinstance(value, (list, tuple))
        and len(value) == 2
        and all(isinstance(v, kinds) for v in value)
        and 0 < value[0] <= value[1]
    ):
        kind = "whole numbers" if whole else "numbers, or None"
        raise ValueError(f"{key} {value!r}: expected (smallest, largest), two positive {kind}")


def _elastic_shares(config):
    return config["elasticAlpha"], config["elasticSigma"], config["elasticAffine"]


def make_sample(config: dict, source: Volume | None, index: int) -> SyntheticMap:
    """Synthetic map number `index` of a configuration of step 1.

    Raises:
        ValueError: no voxel is left in the mask, or an option that cannot be met.
    """
    rng = np.random.default_rng([config["seed"], index])
    rngs = dict(zip(STAGES, rng.spawn(len(STAGES)), strict=True))
    kind = augment.pick(config["mixture"], rngs["kind"], "mixture")
    factors = _voxel_factors(config, rngs["grid"])
    times = 2 if kind != "chi_map" and rngs["fine"].random() < config["fineChance"] else 1
    affine, voxel_size = _grid(config, source)
    chi, mask = _anatomy(config, source, kind, voxel_size, rngs, times)
    affine, voxel_size = affine @ np.diag([*factors, 1]), np.asarray(voxel_size) * factors
    record = {"seed": config["seed"], "index": index, "kind": kind}
    record["voxel_size"] = [float(v) for v in voxel_size]
    if config["flips"]:
        flipped = [axis for axis in range(3) if rngs["flips"].random() < 0.5]
        chi, mask = np.flip(chi, flipped), np.flip(mask, flipped)
        record["flipped_axes"] = flipped
    record["b0_dir"], record["tilt_deg"] = augment.tilt(
        b0_direction(affine), config["tilt_deg"], rngs["tilt"]
    )
    box = bounding_box(mask)
    out, out_mask = np.zeros(chi.shape, np.float32), np.zeros(chi.shape, bool)
    given = (config, chi[box], mask[box], voxel_size / times, rngs, record)
    out[box], out_mask[box] = _change(*given, times)
    for drawn in record["sources"] + record.get("veins", []):
        if "centre" in drawn:  # from indices in the box to indices in the volume
            drawn["centre"] = [
                (i + s.start) // times for i, s in zip(drawn["centre"], box, strict=True)
            ]
    header, fine = source.header if source is not None else None, None
    if times > 1:
        record["sampling"] = str(rngs["fine"].choice(SAMPLINGS))
        half = np.diag([0.5, 0.5, 0.5, 1.0])
        half[:3, 3] = -0.25  # the first fine voxel's centre, in voxels of the map
        fine = Volume(out, affine @ half, tuple(voxel_size / 2), header)
        out_mask = block_mean(out_mask.astype(np.float32)) > MOSTLY_BRAIN
        _check_left(out_mask, "the step to the grid", "maskErosion and maskHoles")
        out = sampled(out, record["sampling"]).real * out_mask
    return SyntheticMap(Volume(out, affine, tuple(voxel_size), header), out_mask, record, fine)


def _grid(config, source):
    """Affine and voxel size of the maps before they are relabelled."""
    if source is not None:
        return source.affine, source.voxel_size
    return np.diag([*config["voxelSize"], 1.0]), config["voxelSize"]


def _voxel_factors(config, rng):
    """Factors on the three voxel edges; the anatomy shrinks or grows with them."""
    if config["voxel_size_range"] is None:
        return np.ones(3)
    factors = np.full(3, rng.uniform(*config["voxel_size_range"]))
    if rng.random() < config["anisotropicChance"]:
        factors[2] *= rng.uniform(1, 2)
    return factors


def _anatomy(config, source, kind, voxel_size, rngs, times=1):
    """χ (X, Y, Z) and its mask, before contrast and sources, on voxels of 1/`times` the edge."""
    if kind == "chi_map":
        shares = _elastic_shares(config)
        chi = augment.elastic(source.data, rngs["elastic"], config["elastic"], *shares)
        return chi, augment.largest_component(chi != 0)
    shape = tuple(n * times for n in config["shape"] or source.data.shape)
    voxel_size = np.asarray(voxel_size) / times
    if kind in ("phantom", "flat_phantom"):
        # Step 0 keeps seeds of 1000 and more for validation heads, default_rng(1000) and on; the
        # stream used here is spawned from [seed, index], and no spawned stream is that of a seed.
        head = make_head(shape, voxel_size, rngs["anatomy"])
        chi, mask = head["chi"], augment.largest_component(head["mask"] > 0)
        if kind == "flat_phantom":
            chi = _flattened(chi, head["labels"], rngs["anatomy"])
        return chi, mask
    return make_random_labels(shape, voxel_size, rngs["anatomy"])


def _flattened(chi, labels, rng):
    """χ (X, Y, Z) of a head [ppm] without texture and partial volume, as numerical phantoms are.

    Each tissue of `labels` (X, Y, Z, integers) has its mean, changed by 40 % (lognormal), and all
    of them up to three times the contrast: the FANSI phantom has twice that of a measured map.
    """
    tissues = np.unique(labels)
    values = ndimage.mean(chi, labels, tissues) * rng.lognormal(0, 0.4, len(tissues))
    means = np.zeros(int(tissues[-1]) + 1, np.float32)
    means[tissues] = values * np.exp(rng.uniform(0, np.log(3)))
    return means[labels]


def _change(config, chi, mask, voxel_size, rngs, record, times):
    """Erosion, contrast, sources, veins and mask damage on the brain's box.

    `times`: of a map's voxel edge over that of this one, if it is drawn finer.
    """
    mask, inner = erode(mask, voxel_size, config["erosionRadius"], times=2)
    _check_left(mask, f"an erosion by {config['erosionRadius']} mm", "erosionRadius")
    contrast = augment.draw_contrast(rngs["contrast"], config["contrasts"])
    record["contrast"] = contrast
    out = np.zeros(chi.shape, np.float32)
    out[mask] = augment.adjust_contrast(chi[mask], **contrast)
    record["sources"] = _add_sources(config, out, (mask, inner), voxel_size, rngs["sources"])
    if config["veins"]:
        count = int(rngs["veins"].integers(0, config["veins"], endpoint=True))
        record["veins"] = augment.add_veins(out, mask, voxel_size, rngs["veins"], count)
    if config["maskErosion"] or config["maskHoles"]:
        mask, record["mask_damage"] = augment.damage_mask(
            mask, rngs["mask"], config["maskErosion"], config["maskHoles"], times
        )
        _check_left(mask, "mask damage", "maskErosion and maskHoles")
    return out * mask, mask


def _check_left(mask, cause, keys):
    if not mask.any():
        raise ValueError(
            f"nothing is left of the brain after {cause}; lower {keys} or check the mask"
        )


def _add_sources(config, chi, masks, voxel_size, rng):
    """Add sources of one sign, or none, to χ in place; list what was drawn."""
    mask, inner = masks
    chance = rng.random()
    if chance < config["positiveChance"]:
        sign = "positive"
    elif chance < config["positiveChance"] + config["negativeChance"]:
        sign = "negative"
    else:
        return []
    drawn = []
    for _ in range(config[f"{sign}Number"]):
        region = inner if sign == "negative" or rng.random() < 0.5 else mask
        drawn.append(_source(config, chi, region, voxel_size, sign, rng))
    return drawn


def _source(config, chi, region, voxel_size, sign, rng):
    """Draw one source, add it to χ in place, and return what was drawn."""
    solid, drawn = augment.random_source(
        region, voxel_size, rng, config["sourceShapes"], config["sourceAxes"]
    )
    if solid is None:
        return drawn
    if config["sourceRange"] is None:
        value = config[f"{sign}Value"] + config["sourceValueSd"] * rng.standard_normal()
    else:
        value = rng.uniform(*config["sourceRange"]) * (1 if sign == "positive" else -1)
    chi[solid] += np.float32(value)
    return {**drawn, "ppm": float(value), "voxels": int(solid.sum())}
