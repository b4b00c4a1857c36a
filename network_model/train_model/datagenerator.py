"""Batches of training: source patches from step 3's file, target crops of one real scan.

Batch `i` of epoch `e` depends on (seed, e, i) alone, so that a run that was killed goes on with the
data it would have had.
"""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import h5py
import keras
import numpy as np
from keras import ops
from tqdm import tqdm

from network_model.inference import scan_channels
from network_model.scaling import CHANNEL_SCALE, CHI_SCALE, FIELD_SCALE, network_input
from training_data.channels import UNSIGNED, extra_channels
from training_data.patchfile import reading
from training_data.volume import bounding_box, crop_pad, window

# Least error of the start that a patch is weighed by, network units: 0.0015 ppm.
BALANCE_FLOOR = 0.05


class PatchFile:
    """Step 3's file: patches as network input, mask and label.

    Args:
        path: HDF5 file.
        inputs: channels of the network, in order.
        crop: size (x, y, z) of the window that is read of a patch; None: all of it.

    Attributes:
        xp: module of the arrays that `read` returns: NumPy.

    Raises:
        ValueError: the file is missing or unreadable, or lacks a channel; or a window larger than
            a patch.
    """

    xp = np

    def __init__(self, path, inputs, crop=None):
        self.path, self.inputs = Path(path), list(inputs)
        if not self.path.is_file():
            raise ValueError(f"{path}: no such file; run step 3 first, or set datasets_path")
        with reading(path):
            self.file = h5py.File(self.path)
            stored = extra_channels(self.file.attrs["inputs"])
            self.samples = self.file["sample"][:]
            self.stored_shape = self.file["chi"].shape[1:]
            names = ("mask", "chi", *(("field",) if "field" in self.inputs else ()))
            names += ("extra",) if stored else ()
            self.arrays = {name: StoredPatches(self.file[name], self.path) for name in names}
        missing = [n for n in extra_channels(self.inputs) if n not in stored]
        if missing:
            raise ValueError(
                f"{path}: lacks the channels {', '.join(missing)}; "
                f"run step 3 with inputs={self.inputs}"
            )
        self.stored = stored
        self.shape = tuple(crop or self.stored_shape)
        self.room = [n - s for n, s in zip(self.stored_shape, self.shape, strict=False)]
        if len(self.shape) != 3 or min(self.room) < 0 or min(self.shape) < 1:
            raise ValueError(
                f"crop {list(crop)}: expected three sizes of at most the patches' "
                f"{list(self.stored_shape)}; change it, or patch_size of step 3"
            )

    def digest(self) -> str:
        """SHA-256 of where the patches are from, the first and the last, and the attributes."""
        parts = [self.samples, self.file["corner"][:]]
        names = [name for name in ("field", "mask", "chi", "extra") if name in self.file]
        parts += [self.file[name][i] for name in names for i in (0, -1)]
        attributes = sorted((key, str(value)) for key, value in self.file.attrs.items())
        known = b"".join(part.tobytes() for part in parts) + repr(attributes).encode()
        return hashlib.sha256(known).hexdigest()

    def read(self, index: int, rng=None):
        """Patch `index`: network input (x, y, z, C), mask and label (x, y, z, 1), network units.

        Where a window is read of it, one drawn by `rng`; without, the middle one.
        """
        found = self._stored(index, self._window(rng))
        channels = {name: found["extra"][..., i] for i, name in enumerate(self.stored)}
        channels |= {"mask": found["mask"], "field": found.get("field")}
        mask, chi = (self.xp.multiply(found[name], np.float32(1)) for name in ("mask", "chi"))
        return self._input(channels), mask[..., None], chi[..., None] * np.float32(CHI_SCALE)

    def _input(self, channels: dict):
        return network_input(channels, self.inputs)

    def _stored(self, index: int, at) -> dict[str, np.ndarray]:
        return {name: array.read(index, at) for name, array in self.arrays.items()}

    def _window(self, rng):
        corner = [r // 2 for r in self.room]
        if rng is not None and any(self.room):
            corner = rng.integers(0, self.room, endpoint=True).tolist()
        return window(corner, self.shape)

    def split(self, share: float, seed: int, maps=None):
        """Indices of training and validation patches; whole maps go to one side or the other.

        Args:
            share: of the maps for validation; seed: of their choice.
            maps: names of the maps to take; None: all.

        Raises:
            ValueError: fewer than two maps, so that no map can be kept for validation; or a map
                that the file lacks.
        """
        names = np.unique(self.samples)
        if maps is not None:
            maps = maps.split(",") if isinstance(maps, str) else maps
            if not isinstance(maps, (list, tuple)):
                raise ValueError(f"maps {maps!r}: expected a list of names, or None for all")
            wanted = np.unique(np.asarray(list(maps), "S"))
            if not np.isin(wanted, names).all():
                raise ValueError(f"{self.path}: lacks some of the maps that `maps` names")
            names = wanted
        if len(names) < 2:
            raise ValueError(
                f"{self.path}: {len(names)} map; training needs 2 or more: set number in step 1"
            )
        order = np.random.default_rng([seed, 4]).permutation(names)
        kept = order[: min(max(1, round(share * len(names))), len(names) - 1)]
        held, taken = np.isin(self.samples, kept), np.isin(self.samples, names)
        return np.flatnonzero(taken & ~held), np.flatnonzero(held)


class ResidentPatches(PatchFile):
    """Step 3's file in the memory of the accelerator, where batches are made of it.

    A GPU that waits for batches from the CPU is busy for a fifth of the time (docs/NOTEBOOK.md).
    Needs KERAS_BACKEND=torch: with others a batch goes through the memory of the host. Arguments,
    errors and patches are those of `PatchFile`; all arrays keep their type in the file.

    Attributes:
        xp: module of the arrays that `read` returns: `keras.ops`.
    """

    xp = keras.ops

    def __init__(self, path, inputs, crop=None):
        super().__init__(path, inputs, crop)
        whole = window((0, 0, 0), self.stored_shape)
        self.resident = []
        for index in tqdm(range(len(self.samples)), desc="patches to the accelerator"):
            arrays = super()._stored(index, whole)
            self.resident.append({k: ops.convert_to_tensor(a) for k, a in arrays.items()})

    def _stored(self, index: int, at) -> dict:
        return {name: array[at] for name, array in self.resident[index].items()}

    def _input(self, channels: dict):
        scales = {name: np.float32(CHANNEL_SCALE[name]) for name in self.inputs}
        return ops.stack([ops.multiply(channels[n], scale) for n, scale in scales.items()], -1)


class StoredPatches:
    """One array of step 3's file; where it is not compressed, read as memory is.

    HDF5 reads one patch at a time, whatever the number of threads.

    Args:
        data: h5py.Dataset, a chunk each patch; path: of its file.
    """

    def __init__(self, data, path):
        self.data, self.memory = data, None
        if data.compression is None:
            chunks = (data.id.get_chunk_info(i) for i in range(data.id.get_num_chunks()))
            self.starts = {chunk.chunk_offset[0]: chunk.byte_offset for chunk in chunks}
            self.memory = np.memmap(path, mode="r")

    def read(self, index: int, at):
        """Window `at`, three slices, of patch `index`."""
        if self.memory is None:
            return self.data[(index, *at)]
        start = self.starts[index]
        shape = self.data.shape[1:]
        size = int(np.prod(shape)) * self.data.dtype.itemsize
        return self.memory[start : start + size].view(self.data.dtype).reshape(shape)[at]


class TargetCrops:
    """Crops of one real scan: field, mask, magnitude weight, and the network's channels.

    Args:
        subject: as `load_subject` returns it.
        spec: of the network, for its inputs.
        patch: crop size (x, y, z).
        rule: "2020": the box centred in x and y, random in z; "random": random in all three.

    Raises:
        ValueError: unknown rule.
    """

    def __init__(self, subject, spec: dict, patch, rule: str):
        if rule not in ("2020", "random"):
            raise ValueError(f"target_crop {rule!r}: expected '2020' or 'random'")
        channels = scan_channels(spec, subject)
        box = bounding_box(subject.mask)
        mask = subject.mask.astype(np.float32)
        truth = np.stack([subject.field * mask * FIELD_SCALE, subject.weight * mask, mask], -1)
        self.x = crop_pad(network_input(channels, spec["inputs"]), box, patch)
        self.truth = crop_pad(truth, box, patch)
        self.patch, self.rule = patch, rule

    def draw(self, rng):
        """A crop: network input (x, y, z, C), mask (x, y, z, 1), [100·field, W, mask]."""
        room = [n - p for n, p in zip(self.truth.shape, self.patch, strict=False)]
        corner = [r // 2 for r in room]
        free = (2,) if self.rule == "2020" else (0, 1, 2)
        for axis in free:
            corner[axis] = int(rng.integers(0, room[axis] + 1))
        at = window(corner, self.patch)
        return self.x[at], self.truth[at][..., 2:], self.truth[at]


def flip_all(arrays, rng, isotropic_plane: bool = True, xp=np):
    """Random flips of x, y, z and exchange of x and y, the same for every array (x, y, z, C).

    `xp`: module of the arrays, NumPy or `keras.ops`.
    """
    flips = tuple(axis for axis in range(3) if rng.random() < 0.5)
    swap = rng.random() < 0.5 and isotropic_plane
    out = [xp.flip(a, flips) for a in arrays] if flips else arrays
    return [xp.swapaxes(a, 0, 1) if swap else a for a in out]


class DataGenerator(keras.utils.PyDataset):
    """Batches of source patches and, where there is a target, as many crops of it.

    Args:
        patches: PatchFile; indices: which of its patches.
        config: step 4's configuration.
        target: TargetCrops or None.
        epoch: number of the epoch; a negative one marks validation (fixed order, no augmentation).
        steps: batches; 0: through all indices once.
    """

    def __init__(self, patches, indices, config: dict, target=None, epoch: int = 0):
        # Keras's own workers lose the first batch of a fit (Keras 3.15), hence a pool.
        super().__init__(workers=1, use_multiprocessing=False)
        workers = config["workers"]
        self.pool = ThreadPoolExecutor(workers) if workers > 1 else None
        self.ahead, self.begun = 2 * workers, {}
        self.patches, self.target = patches, target
        self.training = epoch >= 0
        self.key = [config["seed"], 5, max(epoch, 0), int(self.training)]
        self.augment = config["augment"] and self.training
        self.sign_chance = config["sign_chance"]
        self.similar = config["xsim_weight"] > 0
        signs = [1.0 if name in UNSIGNED else -1.0 for name in patches.inputs]
        self.opposite = patches.xp.array(signs, "float32")
        self.batch = config["batch_size"]
        self.balance = None
        if config["source_balance"]:
            self.balance = [patches.inputs.index(config["source_balance"])]
        steps = config["steps_per_epoch" if self.training else "validation_steps"]
        self.indices = _ordered(indices, self.batch * steps, self.key if self.training else None)
        self.square = patches.shape[0] == patches.shape[1]

    def __len__(self):
        return -(-len(self.indices) // self.batch)

    def __getitem__(self, i: int):
        if self.pool is None:
            return self._batch(i)
        for j in range(i, min(i + self.ahead, len(self))):
            if j not in self.begun:
                self.begun[j] = self.pool.submit(self._batch, j)
        return self.begun.pop(i).result()

    def _batch(self, i: int):
        rng, xp = np.random.default_rng([*self.key, i]), self.patches.xp
        chosen = self.indices[i * self.batch : (i + 1) * self.batch]
        x, mask, label = zip(*(self._patch(index, rng) for index in chosen), strict=True)
        inputs = {"source_x": xp.stack(x), "source_mask": xp.stack(mask)}
        truth = {"source_chi": xp.stack(label)}
        if self.similar:
            truth["source_xsim"] = truth["source_chi"]
        if self.target is not None:
            crops = [self.target.draw(rng) for _ in chosen]
            x, mask, target = (np.stack(part) for part in zip(*crops, strict=True))
            inputs |= {"target_x": x, "target_mask": mask}
            truth |= {"target_field": target, "target_chi": target}
        if not self.balance:
            return inputs, truth
        weights = {name: xp.ones(len(chosen), "float32") for name in truth}
        start = inputs["source_x"][..., self.balance[0], None]
        error = xp.sqrt(xp.mean(xp.square(start - truth["source_chi"]), axis=(1, 2, 3, 4)))
        weights["source_chi"] = 1 / (error + BALANCE_FLOOR)
        return inputs, truth, weights

    def _patch(self, index, rng):
        arrays = self.patches.read(index, rng if self.training else None)
        if not self.training:
            return arrays
        if self.augment:
            arrays = flip_all(arrays, rng, self.square, self.patches.xp)
        x, mask, label = arrays
        # Physics is linear: the opposite susceptibility makes the opposite field.
        if rng.random() >= self.sign_chance:
            return x, mask, label
        return x * self.opposite, mask, -label


def _ordered(indices, count: int, key):
    """Indices in a random order by `key`, cut or repeated to `count`; without one, evenly spread.

    A validation that stopped after the first patches would see a few maps only.
    """
    count = count or len(indices)
    if key is None:
        spread = np.linspace(0, len(indices) - 1, min(count, len(indices)))
        return np.asarray(indices)[spread.round().astype(int)]
    rng = np.random.default_rng(key)
    rounds = [rng.permutation(indices) for _ in range(-(-count // len(indices)))]
    return np.concatenate(rounds)[:count]
