"""One forward pass of a network over a whole scan, or over overlapping tiles where memory is short.

A tile's border sees zeros where the whole volume has brain. Tiles therefore overlap by twice the
network's receptive field (up to `MAX_OVERLAP`); the middle `RAMP` voxels of an overlap are blended
with squared sines that sum to one, what is nearer to a border is thrown away. Networks whose norms
or attention look at the whole grid ("group", "instance", "nonlocal_gated") see each tile's instead.
"""

import dataclasses
import functools
import itertools
import math
from pathlib import Path

import keras
import numpy as np

from network_model.align import TRAINED_MM
from network_model.refine import (
    NEXT_TO_NOTHING,
    flat_share,
    guided_variations,
    structured_share,
    towards_data,
)
from network_model.scaling import CHI_SCALE, network_input
from network_model.strong import mend_field
from network_model.unet import grid_multiple, load_network, read_spec
from training_data.channels import FIRST, GUIDED, TV_ITERATIONS, make_channels
from training_data.noise import estimate_noise
from training_data.volume import bounding_box, crop_pad, padded_shape, resample, uncrop

MAX_OVERLAP = 96  # voxels: the effective receptive field is far smaller than the theoretical one
# Share of their edge by which tiles of a patch's size overlap, where errors are white and where
# they are structured and a network is applied for the last time. 3/8 for 1/2 leaves head 2001 at
# 27.8; with structured errors 1/2, 9/16, 5/8 have 65.9, 65.8, 65.9 there, head 2003 58.2, 57.9,
# 57.9, the measured field 49.1, 48.7, 48.7. From 1/2 to 9/16 costs 3, 14 and 8 s. With 3/8 for 9/16
# in the second network, whose map is an input there, the measured field has 47.96 for 47.97.
TILE_OVERLAP = (3 / 8, 9 / 16)
# `structured_share` from which on a corrected map takes the place of the one that was corrected. On
# heads 2001 and 2003 with shares of 0.30 to 0.46 all of it is as good as half of it, or better.
CORRECTED = 0.3
# Edge of the voxels over the scan's own on which the last network sees it as well where errors are
# structured, and the share of what it makes of them. None of it, a third and a half, refined: head
# 2002 after PDF 53.4, 53.2, 53.2, head 2001 with errors 53.1, 53.1, 53.2, the measured field 48.4 /
# 0.609, 48.1 / 0.610, 48.0 / 0.609, for 4 to 6 s. Not where they would be longer than any that were
# trained: at 2 mm the measured field has 47.1 / 0.671 and 47.6 / 0.663.
COARSER, COARSER_SHARE = 1.2, 1 / 3
RAMP = 16  # voxels over which two tiles are blended
# Tiles of a patch's size that go through a network together: the first of these numbers that the
# last batch is short of by least. 1, 2, 3, 4, 8 at once take 0.105, 0.098, 0.096, 0.095, 0.094 s
# each (two cores with AVX2), to the same bits.
TILES_AT_ONCE = (4, 3, 2)
# Measured peaks on a CPU, in copies of the first level's features.
FORWARD_COPIES = 9
TRAINING_COPIES = 20
ATTENTION_COPIES = 3  # of the matrix of non-local attention
BYTES_PER_VALUE = 4
# What the channels of a scan carry along besides a network's inputs: a number, the map of a first
# network that was tuned on the scan, and where its guided total variation has ended so far.
SHARE, TUNED, SPLITS = "structured_share", "tuned", "splits"
# Iterations of the channels `GUIDED`, as in `refine.GUIDED_ITERATIONS`.
CHANNEL_ITERATIONS = (TV_ITERATIONS, 10)
BASE_GB = 1.2  # Keras, TensorFlow and the libraries, and `TILES_AT_ONCE`
VOLUME_COPIES = 50  # float32 copies of the whole volume that the input channels need
GIB = 1024**3


def predict(
    model: keras.Model,
    spec: dict,
    subject,
    memory_gb: float | None = None,
    *,
    mirrors: bool = False,
    channels: dict | None = None,
    coarser: bool = True,
    last: bool = True,
) -> np.ndarray:
    """Susceptibility of a scan by one network.

    Args:
        model: as `load_network` returns it, for the domain "target".
        spec: its specification.
        subject: anything with field (X, Y, Z) [ppm], mask, voxel_size [mm] and b0_dir.
        memory_gb: memory to stay below [GiB]; tiles are used where the whole box needs more.
            None: no limit.
        mirrors: mean of the network's answers to all eight mirror images of the scan, whose errors
            differ; for networks trained on mirror images (`augment`).
        channels: of the scan, where they are known already (`scan_channels`).
        coarser: where errors are structured, the last network sees the scan on voxels that are
            longer by a fifth as well, whose errors differ; with `mirrors` only, and up to the
            longest that were trained.
        last: False where the map is another network's input: fewer tiles will do (`TILE_OVERLAP`).

    Returns:
        χ, (X, Y, Z) float32 [ppm], zero outside the mask. Any size; nothing is cut off.

    Raises:
        ValueError: not even the smallest tile fits into the memory.
    """
    if channels is None:
        channels = scan_channels(spec, subject, memory_gb, mirrors)
    share = own_share(spec, subject, channels)
    if share == 0:
        return channels[FIRST]
    given = (subject, channels, memory_gb, mirrors)
    coarser = coarser and mirrors and COARSER * max(subject.voxel_size) <= TRAINED_MM[1]
    chi = _corrected(model, spec, *given, coarser=coarser, last=last)
    if share < 1:
        chi += np.float32(1 - share) * (channels[FIRST] - chi)
    return chi


def _corrected(model, spec, subject, channels, memory_gb, mirrors, *, coarser, last) -> np.ndarray:
    """A network's map; where errors are structured corrected by it and by the one for those."""
    weight = 0.0
    if "structured" in spec:
        weight = min(structured_of(subject, channels) / CORRECTED, 1)
    if weight <= NEXT_TO_NOTHING:
        return _one_pass(model, spec, subject, channels, memory_gb, mirrors, last=last)
    chi = _one_pass(model, spec, subject, channels, memory_gb, mirrors, last=False)
    geometry = (subject.mask, subject.voxel_size, subject.b0_dir)
    structured = structured_of(subject, channels)
    known = {name: x for name, x in channels.items() if name not in GUIDED}
    for network, own in ((model, spec), _load_first(spec["structured"])):
        known[FIRST] = towards_data(chi, subject.field, *geometry, structured=structured)
        given = scan_channels(own, subject, memory_gb, mirrors, known)
        kind = {"last": own is not spec, "coarser": coarser}
        found = _one_pass(network, own, subject, given, memory_gb, mirrors, **kind)
        chi += np.float32(weight) * (found - chi)
    return chi


def _one_pass(
    model, spec, subject, channels, memory_gb, mirrors, *, last=True, coarser=False
) -> np.ndarray:
    """What a network makes of a scan's channels, (X, Y, Z) [ppm], zero outside the mask."""
    if keras.backend.backend() == "tensorflow":
        model.jit_compile = False  # XLA compiles minutes for a shape that is seen once
    x, mask, box = network_volume(spec, subject, channels)
    # All have learned B0 within 35° of the third axis. Along the first axis head 2001 had 48.2 for
    # 47.8, with structured errors 68.3 for 66.2 (both at 2 mm).
    along = long_axis(subject.b0_dir)
    x, mask = x.swapaxes(along, 2), mask.swapaxes(along, 2)
    if spec["tile"]:
        fine = last and structured_of(subject, channels) > 0.5
        tiles = {"edge": spec["tile"], "overlap": TILE_OVERLAP[int(fine)], "mirrors": mirrors}
        answer = functools.partial(_small_tiles, model, **tiles)
        chi = answer(x, mask)
        if fine and coarser:
            other = on_coarser_grid(answer, x, mask, grid_multiple(spec), COARSER)
            chi += np.float32(COARSER_SHARE) * (other - chi)
    else:
        tile = tile_shape(spec, mask.shape, memory_gb, _overhead(subject.mask.size))
        chi = _mirrored(model, spec, x, mask, tile, mirrors)
    chi = chi.swapaxes(along, 2) / np.float32(CHI_SCALE)
    return uncrop(chi, box, subject.mask.shape) * subject.mask


def long_axis(b0_dir) -> int:
    """The axis that B0 is nearest to; it and the third one change places for a network."""
    return int(np.argmax(np.abs(b0_dir)))


def on_coarser_grid(answer, x, mask, multiple: int, edge: float) -> np.ndarray:
    """What a network makes of its input on longer voxels, on the scan's own.

    Args:
        answer: from input and mask to a map.
        x: input (X, Y, Z, C) float32; mask: (X, Y, Z) float32.
        multiple: number that every axis of the coarser grid is to be a multiple of.
        edge: of its voxels, over those of x.

    Returns:
        the map, (X, Y, Z) float32, zero outside the mask.
    """
    shape = tuple(multiple * math.ceil(n / (edge * multiple)) for n in mask.shape)
    wide = tuple(round(n * edge) for n in shape)  # at least as large as x

    def there(volume):
        room = [(0, w - n) for w, n in zip(wide, volume.shape, strict=True)]
        return resample(np.pad(volume, room), shape)

    inside = (there(mask) > 0.5).astype(np.float32)
    given = np.stack([there(channel) * inside for channel in np.moveaxis(x, -1, 0)], axis=-1)
    own = tuple(slice(n) for n in mask.shape)
    return resample(answer(given, inside), wide)[own] * mask


def predict_views(
    model: keras.Model,
    spec: dict,
    views,
    memory_gb: float | None = None,
    *,
    mirrors: bool = False,
    tuned=None,
) -> tuple[np.ndarray, float | None, float]:
    """Susceptibility of a scan on its own grid: the mean over the grids that a network sees it on.

    Other grids blur edges when their maps are brought back. Where errors are white they have the
    less of their share the flatter the map on the scan's own grid is (`refine.flat_share`).

    Args:
        model, spec, memory_gb, mirrors: as in `predict`.
        views: as `align.views_of` returns them.
        tuned: on the grid of the first view, the map that the first of several networks has there
            after fine-tuning (`network_to_tune`), for the others to correct; or None.

    Returns:
        χ, (X, Y, Z) float32 [ppm]; the `structured_share` of the scan where its own grid is among
        the views and it was found on the way, else None; and the share of the last view.

    Raises:
        ValueError: not even the smallest tile fits into the memory.
    """
    chi, structured, total, share = np.float32(0), None, 0.0, 1.0
    for view in views:
        total += view.share
        share = view.share / total
        if structured is not None:
            share *= 1 - (1 - structured) * flat_share(chi, views[0].subject.mask)
            if share <= NEXT_TO_NOTHING:
                return chi, structured, 0.0
        known = {} if structured is None else {SHARE: structured}
        subject, known = mended(spec, view.subject, known)
        if tuned is not None and view is views[0]:
            known = known | {TUNED: tuned}
        channels = scan_channels(spec, subject, memory_gb, mirrors, known)
        other = {"mirrors": mirrors, "coarser": len(views) == 1}  # cubes are another grid already
        seen = predict(model, spec, subject, memory_gb, channels=channels, **other)
        chi = chi + np.float32(share) * (view.back(seen) - chi)
        if view.voxel_mm is None and not channels.keys().isdisjoint((SHARE, "tv")):
            structured = structured_of(subject, channels)
        del channels, seen  # before the next one's are made
    return chi, structured, share


def mended(spec: dict, subject, known: dict) -> tuple:
    """A scan whose field is mended beside the strong sources of its total-variation inverse.

    Args:
        spec: of a network; one that is not given that inverse gets the scan as it is.
        subject: a `Subject`.
        known: what is known of it already: its `SHARE`, or nothing.

    Returns:
        the `Subject` to make the network's channels of, and what is known of that one.
    """
    if "tv" not in spec["inputs"]:
        return subject, known
    geometry = (subject.field, subject.mask, subject.voxel_size, subject.b0_dir)
    tv = make_channels(*geometry, ["tv"])["tv"]
    known = known | {"tv": tv}
    structured = structured_of(subject, known)
    found = mend_field(tv, *geometry, share=1 - structured)
    if (found.trust == subject.mask).all():
        return subject, known
    return dataclasses.replace(subject, field=found.field), {SHARE: structured}


def affordable(spec: dict, views: list, memory_gb: float | None) -> list:
    """The views without the one on a finer grid than the scan's, where it exceeds the memory."""
    if len(views) == 1 or _fits(spec, views[-1].subject, memory_gb):
        return views
    return [dataclasses.replace(views[0], share=1.0)]


def _fits(spec: dict, subject, memory_gb: float | None) -> bool:
    """Whether a network that sees whole volumes, or the first one below it, can be given a scan."""
    while FIRST in spec["inputs"]:
        spec = read_spec(**spec["first"])
    box = bounding_box(subject.mask)
    shape = padded_shape([s.stop - s.start for s in box], grid_multiple(spec))
    try:
        tile_shape(spec, shape, memory_gb, _overhead(subject.mask.size))
    except ValueError:
        return False
    return True


def own_share(spec: dict, subject, channels: dict) -> float:
    """Share of a network's map in that of a scan, 0 to 1; the rest is its first network's.

    Where errors are white it is 1 − `first_share`, less the flatter that first map is, and none of
    a piecewise constant one: a network that learned from structured errors blurs its edges.
    """
    if not spec["first_share"]:
        return 1.0
    white = 1 - structured_of(subject, channels)
    if white <= NEXT_TO_NOTHING:
        return 1.0
    flat = flat_share(channels[FIRST], subject.mask)
    return 1 - white * (spec["first_share"] + (1 - spec["first_share"]) * flat)


def structured_of(subject, channels: dict) -> float:
    """`structured_share` of a scan, found once and kept among its channels."""
    if SHARE not in channels:
        geometry = (subject.field, subject.mask, subject.voxel_size, subject.b0_dir)
        channels[SHARE] = structured_share(*geometry, tv=channels.get("tv"))
    return channels[SHARE]


def network_to_tune(path) -> tuple[keras.Model, dict]:
    """The network of a file, or the first one it holds where that one sees whole volumes.

    Fine-tuning knows no tiles.
    """
    model, spec = load_network(path)
    while spec["tile"]:
        if FIRST not in spec["inputs"]:
            raise ValueError(f"{path}: a network of tiles of {spec['tile']}³ can't be fine-tuned")
        model, spec = load_network(**spec["first"])
    return model, spec


def scan_channels(
    spec: dict,
    subject,
    memory_gb: float | None = None,
    mirrors: bool = False,
    known: dict | None = None,
) -> dict[str, np.ndarray]:
    """All input channels of a network for a scan, name → (X, Y, Z) float32 [ppm].

    "first" is the map of the network that is kept in this network's file, after a step towards the
    data (`towards_data`): the second network corrects the first as far as physics leaves it wrong.
    "guided" and "corrected" are total variations with that map as guide (`guided_variations`).

    Args:
        spec: the network's specification; subject, memory_gb, mirrors: as in `predict`.
        known: channels that are made already; of those from a network's map, only `FIRST`.
    """
    channels = {SPLITS: {}} | (known or {})  # the same splits for all networks of a chain
    names = [name for name in spec["inputs"] if name not in (*channels, FIRST, *GUIDED)]
    geometry = (subject.mask, subject.voxel_size, subject.b0_dir)
    if names:
        channels |= make_channels(subject.field, *geometry, names)
    if FIRST in spec["inputs"]:
        if FIRST not in channels:
            structured = structured_of(subject, channels)
            chi = _first_map(spec, subject, memory_gb, mirrors, channels, structured)
            channels[FIRST] = towards_data(chi, subject.field, *geometry, structured=structured)
        if any(name in spec["inputs"] for name in GUIDED):
            given = (channels[FIRST], subject.field, *geometry)
            channels |= _guided(*given, splits=channels[SPLITS])
    return channels


def _first_map(spec, subject, memory_gb, mirrors, known, structured: float) -> np.ndarray:
    """Map of a network's first one; where errors are white, of the one for white errors."""
    shares = [(spec["first"], 1.0)]
    if "white" in spec:
        shares = [(spec["first"], structured), (spec["white"], 1 - structured)]
    total = np.zeros(subject.mask.shape, np.float32)
    for where, share in shares:
        if share == 0:
            continue
        model, first = _load_first(where)
        # Seven passes of a whole volume more give the first map's user 0.1 points of NRMSE; tiles
        # have their mirror images for nothing.
        mirrored = mirrors and first["tile"] > 0
        if TUNED in known and FIRST not in first["inputs"]:
            chi = known[TUNED]
        else:
            inner = scan_channels(first, subject, memory_gb, mirrored, known=known)
            given = {"mirrors": mirrored, "channels": inner, "last": False}
            chi = predict(model, first, subject, memory_gb, **given)
        total += np.float32(share) * chi
    return total


def _load_first(where: dict):
    """`load_first` of a place in a weights file, as a specification names it."""
    return load_first(**where, written=Path(where["path"]).stat().st_mtime_ns)


def _guided(chi, field, mask, *geometry, splits: dict) -> dict[str, np.ndarray]:
    """The channels `GUIDED`: total variations with a first network's map as guide."""
    options = {"noise": estimate_noise(field, mask, *geometry), "flat": flat_share(chi, mask)}
    options |= {"iterations": CHANNEL_ITERATIONS, "splits": splits}
    found = guided_variations(chi, field, mask, *geometry, **options)
    return dict(zip(GUIDED, found, strict=True))


@functools.lru_cache(maxsize=8)
def load_first(path: str, group: str, written: int):
    """The network that makes the channel "first", and its specification, kept for further scans.

    Args:
        path: weights file; group: of it; written: time of its last change [ns].
    """
    return load_to_predict(path, group)


def load_to_predict(path, group: str = "/") -> tuple[keras.Model, dict]:
    """`load_network`; one of tiles in bfloat16 where the processor multiplies in it.

    Its map differs by 0.001 of itself, its own errors being a hundred times that, and takes two
    fifths of the time (docs/NOTEBOOK.md).
    """
    if not (read_spec(path, group)["tile"] and multiplies_bfloat16()):
        return load_network(path, group=group)
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        return load_network(path, group=group)
    finally:
        keras.config.set_dtype_policy(before)


@functools.cache
def multiplies_bfloat16() -> bool:
    """Whether TensorFlow runs here on a processor that has instructions for bfloat16.

    Without them it takes many times as long as in float32. Read from Linux's /proc/cpuinfo.
    """
    if keras.backend.backend() != "tensorflow":
        return False
    try:
        flags = set(Path("/proc/cpuinfo").read_text().split())
    except OSError:
        return False
    return not flags.isdisjoint(("amx_bf16", "avx512_bf16"))


def network_volume(spec: dict, subject, channels: dict | None = None):
    """A scan's channels cut to the mask's box and padded to the network's multiple.

    Returns:
        input (X, Y, Z, C) and mask (X, Y, Z) float32 in network units, and the box they are from.
    """
    if channels is None:
        channels = scan_channels(spec, subject)
    box = bounding_box(subject.mask)
    shape = padded_shape([s.stop - s.start for s in box], grid_multiple(spec))
    x = {name: crop_pad(channels[name], box, shape) for name in spec["inputs"]}
    x = network_input(x, spec["inputs"])
    return x, crop_pad(subject.mask.astype(np.float32), box, shape), box


def receptive_radius(spec: dict) -> int:
    """Voxels that an output voxel sees to each side."""
    depth, convs = spec["depth"], spec["convs_per_level"]
    radius = convs * (2**depth - 1 + 2 ** (depth - 1) - 1) + 1 + 2 ** (depth - 1) - 1
    return spec["shuffle"] * radius + spec["shuffle"] - 1


def memory_estimate(spec: dict, shape, copies: int = FORWARD_COPIES) -> float:
    """Memory of a forward pass, or of a step with `TRAINING_COPIES`, over a grid [GiB]."""
    features = spec["filters"] / spec["shuffle"] ** 3
    if spec["shuffle"] > 1:
        features += len(spec["inputs"])  # regrouped, they are as large as features
    attention = 0
    if spec["architecture"] == "nonlocal_gated":  # every voxel of the lowest level with every other
        attention = ATTENTION_COPIES * (math.prod(shape) / grid_multiple(spec) ** 3) ** 2
    return (math.prod(shape) * features * copies + attention) * BYTES_PER_VALUE / GIB


def check_training_memory(spec: dict, subject, memory_gb: float | None) -> None:
    """Raise a ValueError where fine-tuning, which knows no tiles, needs more than the memory."""
    size = [s.stop - s.start for s in bounding_box(subject.mask)]
    need = memory_estimate(spec, padded_shape(size, grid_multiple(spec)), TRAINING_COPIES)
    need += _overhead(subject.mask.size)
    if memory_gb is not None and need > memory_gb:
        raise ValueError(
            f"fine-tuning this scan needs about {need:.2g} GB and memory is "
            f"{memory_gb:.3g} GB; allow more with --memory, or leave --finetune out"
        )


def tile_shape(
    spec: dict, shape, memory_gb: float | None, overhead_gb: float = 0.0
) -> tuple[int, ...]:
    """Largest tile, by quarters of the longest axis, whose forward pass fits into the memory.

    Args:
        spec: the network's specification.
        shape: grid (X, Y, Z) to cover.
        memory_gb: memory in all [GiB]; None: no limit.
        overhead_gb: what of it other things need [GiB].

    Raises:
        ValueError: the smallest useful tile does not fit.
    """
    multiple = grid_multiple(spec)
    smallest = _overlap(spec) + -(-RAMP // multiple) * multiple
    tile = tuple(int(n) for n in shape)
    while memory_gb is not None and memory_estimate(spec, tile) > memory_gb - overhead_gb:
        axis = int(np.argmax(tile))
        shorter = max(-(-(tile[axis] * 3 // 4) // multiple) * multiple, smallest)
        if shorter >= tile[axis]:
            need = memory_estimate(spec, tile) + overhead_gb
            raise ValueError(
                f"memory {memory_gb:.3g} GB: this scan and the smallest tile of this network, "
                f"{'×'.join(map(str, tile))}, need about {need:.2g} GB; allow more"
            )
        tile = (*tile[:axis], shorter, *tile[axis + 1 :])
    return tile


def _overlap(spec: dict) -> int:
    """Overlap of tiles, a multiple of the network's grid so that pooling falls on one lattice."""
    multiple = grid_multiple(spec)
    wanted = min(2 * receptive_radius(spec) + RAMP, MAX_OVERLAP)
    return max(-(-wanted // multiple), 1) * multiple


def _overhead(voxels: int) -> float:
    """Memory that does not depend on tiles: libraries and whole volumes [GiB]."""
    return BASE_GB + VOLUME_COPIES * BYTES_PER_VALUE * voxels / GIB


def _mirrored(model, spec, x, mask, tile, mirrors: bool) -> np.ndarray:
    """Output (X, Y, Z) of the network, whole or in tiles; mean over mirror images if asked for."""
    chi = np.zeros(mask.shape, np.float32)
    flips = list(itertools.product((False, True), repeat=3)) if mirrors else [(False,) * 3]
    for flip in flips:
        axes = tuple(np.flatnonzero(flip))
        given = [np.ascontiguousarray(np.flip(v, axes)) for v in (x, mask)]
        whole = tile == mask.shape
        out = _whole(model, *given) if whole else _tiled(model, spec, *given, tile)
        chi += np.flip(out, axes) / np.float32(len(flips))
    return chi


def _small_tiles(model, x, mask, edge: int, overlap: float, mirrors: bool) -> np.ndarray:
    """Output (X, Y, Z) of a network that has seen patches only, in tiles of their size.

    Where its receptive field is wider than a patch, features near the zeros around a patch are all
    that it knows, and a whole volume is foreign to it. Tiles overlap by a share of their edge, with
    squared sines as weights; where that is a half a voxel is covered eight times, and with
    `mirrors` each of the eight is another mirror image, every second with x and y exchanged.
    """
    starts = [overlapping_starts(n, edge, overlap) for n in mask.shape]
    if mirrors:  # the only tile along an axis is seen as it is and mirrored
        starts = [s * 2 if len(s) == 1 else s for s in starts]
    room = [(0, max(edge - n, 0)) for n in mask.shape]
    x, wide = np.pad(x, [*room, (0, 0)]), np.pad(mask, room)
    ramp = np.sin(np.pi * (np.arange(edge, dtype=np.float32) + 0.5) / edge) ** 2
    weight = ramp[:, None, None] * ramp[:, None] * ramp
    total, weights = np.zeros(wide.shape, np.float32), np.zeros(wide.shape, np.float32)
    tiles = []
    for place in itertools.product(*(range(len(s)) for s in starts)):
        at = tuple(slice(s[i], s[i] + edge) for s, i in zip(starts, place, strict=True))
        axes = tuple(axis for axis in range(3) if mirrors and place[axis] % 2)
        exchange = (1, 0) if mirrors and sum(place) % 2 else (0, 1)
        if wide[at].any():
            tiles.append((at, axes, exchange))
    number = min(TILES_AT_ONCE, key=lambda n: -len(tiles) % n)
    for some in (tiles[i : i + number] for i in range(0, len(tiles), number)):
        given = (
            [np.moveaxis(np.flip(v[at], axes), (0, 1), exchange) for at, axes, exchange in some]
            for v in (x, wide)
        )
        answers = _answers(model, *map(np.stack, given))
        for (at, axes, exchange), out in zip(some, answers, strict=True):
            total[at] += weight * np.flip(np.moveaxis(out, (0, 1), exchange), axes)
            weights[at] += weight
    np.divide(total, weights, out=total, where=weights > 0)
    return total[tuple(slice(n) for n in mask.shape)]


def overlapping_starts(size: int, edge: int, overlap: float) -> list[int]:
    """First voxels of tiles that cover an axis and overlap by at least a share of their edge."""
    count = max(math.ceil((size - edge) / (edge * (1 - overlap))), 0) + 1
    return np.linspace(0, max(size - edge, 0), count).round().astype(int).tolist()


def _whole(model, x, mask) -> np.ndarray:
    """Output (X, Y, Z) of the network for one grid, in network units."""
    return _answers(model, x[None], mask[None])[0]


def _answers(model, x, masks) -> np.ndarray:
    """Output (N, X, Y, Z) of the network for N grids of one size, in network units."""
    inputs = {"target_x": x, "target_mask": masks[..., None]}
    return np.asarray(model.predict_on_batch(inputs)["target_chi"], np.float32)[..., 0]


def _tiled(model, spec, x, mask, tile) -> np.ndarray:
    """As `_whole`, over overlapping tiles."""
    overlap, multiple = _overlap(spec), grid_multiple(spec)
    starts = [tile_starts(n, t, overlap, multiple) for n, t in zip(mask.shape, tile, strict=True)]
    total = np.zeros(mask.shape, np.float32)
    weights = np.zeros(mask.shape, np.float32)
    for corner in itertools.product(*starts):
        where = tuple(slice(c, c + t) for c, t in zip(corner, tile, strict=True))
        if not mask[where].any():
            continue
        ramps = [_ramp(c, t, n, overlap) for c, t, n in zip(corner, tile, mask.shape, strict=True)]
        weight = ramps[0][:, None, None] * ramps[1][:, None] * ramps[2]
        total[where] += weight * _whole(model, x[where], mask[where])
        weights[where] += weight
    return np.where(weights > 0, total / np.maximum(weights, 1e-6), 0)


def tile_starts(size: int, tile: int, overlap: int, multiple: int) -> list[int]:
    """First voxels of tiles that cover an axis, evenly spread, on the network's lattice."""
    if tile >= size:
        return [0]
    count = -(-(size - overlap) // (tile - overlap))
    spread = np.linspace(0, (size - tile) / multiple, count)
    return [round(s) * multiple for s in spread]


def _ramp(start: int, tile: int, size: int, overlap: int) -> np.ndarray:
    """Weight of a tile along one axis: one in the middle, falling to zero at inner borders."""
    distance = np.arange(tile, dtype=np.float32) + 0.5
    inner = np.full(tile, np.inf, np.float32)
    if start > 0:
        inner = np.minimum(inner, distance)
    if start + tile < size:
        inner = np.minimum(inner, tile - distance)
    share = np.clip((inner - (overlap - RAMP) / 2) / RAMP, 0, 1)
    return np.sin(np.pi / 2 * share) ** 2
