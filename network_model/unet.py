"""One builder for every network: a 3-D U-Net over a list of domains, and the file it is kept in.

Every convolution is made once and applied to each domain's tensor; with `norm="domain"` every batch
norm exists once per domain (Liu & Koch 2020; Chang 2019, arXiv 1906.03950). A network's file holds
its specification and its variables by name, so that steps 4, 5 and 6 share it.
"""

import json
import os
from functools import partial
from math import gcd
from pathlib import Path

import h5py
import keras
import numpy as np
from keras import layers

from network_model.layers import DepthToSpace, JoinedConv3D, NonLocal, SpaceToDepth
from network_model.widen import widened
from training_data.channels import FIRST, UNSIGNED, check_inputs

SPEC = {
    "architecture": "unet",  # or "nonlocal_gated": arXiv 1904.05493
    "inputs": ["field", "mask"],
    "first_share": 0.0,  # of the first network's map in the mean where a scan's errors are white
    # Weights beside its file: of what makes that map, where it is not kept inside; of what makes it
    # where errors are white; and of what corrects this network's map, after it has done so itself,
    # where they are structured.
    "below_file": None,
    "white_file": None,
    "structured_file": None,
    "residual": None,  # input channel that the output is a correction to, e.g. "tv"
    "linear_path": False,  # a learned weighted sum of the input channels is added to the output
    "filters": 24,  # of the first level; doubled at each further one
    "depth": 5,  # levels; the grid must be a multiple of shuffle·2^(depth−1)
    "convs_per_level": 1,
    "tile": 0,  # edge of the tiles it is applied in, its training patches'; 0: the whole volume
    "shuffle": 1,  # 2: work on half the grid, blocks of 2³ voxels as channels
    "norm": "domain",  # "domain", "batch" (shared), "group", "instance", "none"
    "negative_slope": 0.0,  # of the ReLU: above 0 no feature can die
    "use_bias": True,  # without bias and norm the network is homogeneous: f(a·x) = a·f(x)
}
# Key of a file beside a network's own → the name under which its place is in the specification.
BESIDE = {"below_file": FIRST, "white_file": "white", "structured_file": "structured"}
# Of these a network's weights do not depend on: how it is applied.
APPLIED = ("first_share", "tile", *BESIDE)
ARCHITECTURES = ("unet", "nonlocal_gated")
NORMS = ("domain", "batch", "group", "instance", "none")
CONVOLUTION = partial(layers.Conv3D, kernel_size=3, padding="same")


def make_spec(config: dict) -> dict:
    """The keys of a config that define a network, checked.

    Raises:
        ValueError: a value out of its choices, or a residual channel that is not an input.
    """
    spec = {key: config.get(key, default) for key, default in SPEC.items()}
    check_inputs(spec["inputs"])
    if FIRST in spec["inputs"]:
        file = config.get("firstFile")
        if not file:
            raise ValueError(f"input {FIRST!r}: set firstFile to the weights that make it")
        spec["first"] = {"path": str(file), "group": config.get("firstGroup", "/")}
    for key, choices in (("architecture", ARCHITECTURES), ("norm", NORMS)):
        if spec[key] not in choices:
            raise ValueError(f"{key} {spec[key]!r}: expected one of {', '.join(choices)}")
    share = spec["first_share"]
    if not 0 <= share <= 1 or (share and FIRST not in spec["inputs"]):
        raise ValueError(f"first_share {share}: expected 0, or with the input {FIRST!r} up to 1")
    for key in ("below_file", "white_file"):
        if spec[key] and FIRST not in spec["inputs"]:
            raise ValueError(f"{key}: a source of the input {FIRST!r}; add that input")
    if spec["residual"] not in (None, *spec["inputs"]) or spec["residual"] in UNSIGNED:
        raise ValueError(f"residual {spec['residual']!r}: expected None or an inversion in inputs")
    if not 0 <= spec["negative_slope"] < 1:
        raise ValueError(f"negative_slope {spec['negative_slope']}: expected 0 <= slope < 1")
    counts = ("filters", "depth", "convs_per_level", "shuffle")
    if min(spec[key] for key in counts) < 1:
        raise ValueError(f"{', '.join(counts)}: expected whole numbers of at least 1")
    if spec["tile"] < 0 or spec["tile"] % (2 * grid_multiple(spec)):
        wanted = f"0 or a multiple of {2 * grid_multiple(spec)}"
        raise ValueError(f"tile {spec['tile']}: expected {wanted}")
    return spec


def grid_multiple(spec: dict) -> int:
    """Number that every axis of the network's grid must be a multiple of."""
    return spec["shuffle"] * 2 ** (spec["depth"] - 1)


def build_unet(spec: dict, domains=("source", "target")) -> keras.Model:
    """Build the network of a specification.

    Args:
        spec: as `make_spec` returns it.
        domains: names; each has inputs `<domain>_x` (batch, X, Y, Z, C) and `<domain>_mask`
            (batch, X, Y, Z, 1) and an output `<domain>_chi` (batch, X, Y, Z, 1) float32, all in
            the units of `scaling.py`.

    Returns:
        Keras model from a dict of inputs to a dict of outputs.
    """
    grid = (None, None, None)
    x = {d: layers.Input((*grid, len(spec["inputs"])), name=f"{d}_x") for d in domains}
    mask = {d: layers.Input((*grid, 1), name=f"{d}_mask") for d in domains}
    level, depth = _Level(spec, domains), spec["depth"]
    features, skips, shuffle = x, [], spec["shuffle"]
    if shuffle > 1:
        features = _each(SpaceToDepth(shuffle), features)
    for d in range(depth):
        features = level(features, f"down{d}", spec["filters"] * 2**d)
        if d < depth - 1:
            skips.append(features)
            features = _each(layers.MaxPooling3D(2), features)
    if spec["architecture"] == "nonlocal_gated":
        features = _each(NonLocal(name="nonlocal"), features)
    for d in reversed(range(depth - 1)):
        features = {name: [features[name], skips[d][name]] for name in domains}
        features = level(features, f"up{d}", spec["filters"] * 2**d, JoinedConv3D)
    chi = _output(spec, features, x)
    outputs = {f"{n}_chi": layers.Multiply(name=f"{n}_chi", dtype="float32")([chi[n], mask[n]])
               for n in domains}  # fmt: skip
    inputs = {f"{n}_x": x[n] for n in domains} | {f"{n}_mask": mask[n] for n in domains}
    return keras.Model(inputs, outputs, name="qsminvnet")


def _output(spec: dict, features: dict, x: dict) -> dict:
    """χ (batch, X, Y, Z, 1) float32 of every domain, from the last features and the inputs."""
    shuffle = spec["shuffle"]
    last = layers.Conv3D(
        shuffle**3, 3, padding="same", use_bias=spec["use_bias"], name="last", dtype="float32",
        kernel_initializer="zeros" if spec["residual"] else "glorot_uniform",
    )  # fmt: skip
    chi = _each(last, features)
    if shuffle > 1:
        chi = _each(DepthToSpace(shuffle, dtype="float32"), chi)
    # In float32: half precision would round what the correction is added to.
    add = layers.Add(dtype="float32")
    if spec["residual"]:
        at = spec["inputs"].index(spec["residual"])
        chi = {name: add([c, x[name][..., at : at + 1]]) for name, c in chi.items()}
    if spec["linear_path"]:
        mix = layers.Dense(
            1, use_bias=False, name="linear_path", dtype="float32", kernel_initializer="zeros"
        )
        chi = {name: add([c, mix(x[name])]) for name, c in chi.items()}
    return chi


def _each(layer, features: dict) -> dict:
    return {name: layer(f) for name, f in features.items()}


class _Level:
    """Convolution, norm and ReLU, `convs_per_level` times, on every domain's tensor.

    The first convolution is a layer of the class `kind`, and its features are what that takes.
    """

    def __init__(self, spec: dict, domains):
        self.spec, self.domains = spec, domains

    def __call__(self, features: dict, name: str, filters: int, kind=CONVOLUTION) -> dict:
        for i in range(self.spec["convs_per_level"]):
            features = self._convolve(kind, features, f"{name}_{i}", filters)
            kind = CONVOLUTION
        return features

    def _convolve(self, kind, features: dict, name: str, filters: int) -> dict:
        make = {"use_bias": self.spec["use_bias"], "kernel_initializer": "he_uniform"}
        convolved = _each(kind(filters, name=f"{name}_conv", **make), features)
        relu = layers.ReLU(negative_slope=self.spec["negative_slope"])
        out = _each(relu, self._normalize(convolved, name, filters))
        if self.spec["architecture"] == "nonlocal_gated":
            gate = kind(filters, name=f"{name}_gate", activation="sigmoid", **make)
            out = {n: layers.Multiply()([out[n], gate(features[n])]) for n in out}
        return out

    def _normalize(self, features: dict, name: str, filters: int) -> dict:
        norm = self.spec["norm"]
        if norm == "domain":
            return {
                n: layers.BatchNormalization(momentum=0.8, name=f"{name}_norm_{n}")(f)
                for n, f in features.items()
            }
        shared = {
            "batch": lambda: layers.BatchNormalization(momentum=0.8, name=f"{name}_norm"),
            "group": lambda: layers.GroupNormalization(gcd(8, filters), name=f"{name}_norm"),
            "instance": lambda: layers.GroupNormalization(-1, name=f"{name}_norm"),
        }
        return _each(shared[norm](), features) if norm in shared else features


def save_network(model: keras.Model, spec: dict, path, notes: dict | None = None, dtype="float32"):
    """Write specification and variables of a network to one HDF5 file (atomically).

    Args:
        model: as `build_unet` makes it, or a model that contains its layers.
        spec: its specification; the network that it names as "first" is copied along, unless it is
            to stay in a file beside this one (`below_file`).
        path: file to write.
        notes: anything that JSON can hold: the training's config, scores, date.
        dtype: "float16" halves the file.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    with h5py.File(temporary, "w") as file:
        write_network(file, model, spec, notes, dtype)
        if (first := spec.get("first")) and not spec["below_file"]:
            _copy_network(first, file.create_group(FIRST))
    os.replace(temporary, path)


def write_network(
    group, model: keras.Model, spec: dict, notes: dict | None = None, dtype="float32"
):
    """As `save_network`, to an open HDF5 file or a group of it, and without any other network."""
    group.attrs["spec"] = json.dumps({key: spec[key] for key in SPEC})
    group.attrs["notes"] = json.dumps(notes or {}, default=list)
    for name, variable in _variables(model).items():
        group[name] = keras.ops.convert_to_numpy(variable).astype(dtype)


def check_first(spec: dict) -> None:
    """Raise a ValueError where a network is given the map of one that can't be copied along.

    That one's file names others beside it, for white or for structured errors, which would not lie
    beside the new file.
    """
    while FIRST in spec["inputs"]:
        path = spec["first"]["path"]
        spec = read_spec(**spec["first"])
        names = [spec[key] for key in BESIDE if spec[key] and key != "below_file"]
        if names:
            raise ValueError(
                f"firstFile {path}: needs {' and '.join(names)} beside it, which new weights can't "
                "take along; pack it without them (network_model/pack.py)"
            )


def _copy_network(where: dict, group) -> None:
    """Copy a network, of a file and a group of it, into another file's group."""
    spec = read_spec(**where)
    with h5py.File(where["path"]) as file:
        stored = file[where["group"]]
        group.attrs.update(stored.attrs)
        for name in stored:
            stored.copy(name, group)
    if spec["below_file"]:
        _copy_network(spec[FIRST], group.create_group(FIRST))
        group.attrs["spec"] = json.dumps({key: spec[key] for key in SPEC} | {"below_file": None})


def read_spec(path, group: str = "/") -> dict:
    """Specification of the network in a file, or in a group of it.

    Raises:
        ValueError: the file is missing, not HDF5, or not a network of this project.
    """
    if not Path(path).is_file():
        raise ValueError(f"{path}: no such weights; run step 4 first, or name a weights file")
    try:
        with h5py.File(path) as file:
            spec = json.loads(file[group].attrs["spec"])
        inside = f"{group.rstrip('/')}/{FIRST}"
        spec = make_spec({**spec, "firstFile": str(path), "firstGroup": inside})
    except (OSError, KeyError, json.JSONDecodeError) as error:
        raise ValueError(f"{path}: not a weights file of this project ({error})") from error
    for key, name in BESIDE.items():
        if spec[key]:
            spec[name] = {"path": str(Path(path).with_name(spec[key])), "group": "/"}
            if not Path(spec[name]["path"]).is_file():
                raise ValueError(f"{path}: needs {spec[key]} beside it, found none; fetch it")
    return spec


def load_network(path, domains=("target",), group: str = "/") -> tuple[keras.Model, dict]:
    """Build the network that a file, or a group of it, describes and fill in its variables.

    A domain that the file lacks takes the source domain's batch norm.

    Returns:
        the model for `domains`, and its specification.

    Raises:
        ValueError: as `read_spec`; variables missing or of another shape.
    """
    spec = read_spec(path, group)
    model = build_unet(spec, domains)
    fill_network(model, path, group)
    return model, spec


def fill_network(model: keras.Model, path, group: str = "/") -> None:
    """Set a model's variables from a network's file; raises a ValueError where they do not fit."""
    with h5py.File(path) as whole:
        file = whole[group]
        for name, variable in _variables(model).items():
            stored = name if name in file else name.replace("_norm_target/", "_norm_source/")
            if stored not in file or file[stored].shape != tuple(variable.shape):
                found = file[stored].shape if stored in file else "nothing"
                raise ValueError(
                    f"{path}: weights of another architecture: {name} expects shape "
                    f"{tuple(variable.shape)}, found {found}; use the config they were trained with"
                )
            variable.assign(file[stored][()].astype(np.float32))


def warm_start(model: keras.Model, spec: dict, path) -> None:
    """Fill a network from a file, also from that of a smaller one, whose function it then has.

    Inputs and a linear path that the file's network lacks get kernels of zero; convolutions that it
    lacks at the end of a level get the identity, which a ReLU lets pass because what arrives is not
    negative (Net2DeeperNet: Chen 2016, arXiv 1511.05641); more filters are copies of some
    (`widened`).

    Args:
        model: as `build_unet` makes it from `spec`.
        path: file of a network of the same architecture, depth and norm.

    Raises:
        ValueError: as `read_spec`; a network that this one cannot have grown from.
    """
    small = read_spec(path)
    other = {key for key in SPEC if key not in APPLIED and small[key] != spec[key]}
    if not other:
        fill_network(model, path)
    elif small["filters"] < spec["filters"]:
        _widen(model, small, spec, path, other)
    else:
        _grow(model, small, spec, path)


def _grow(model: keras.Model, small: dict, spec: dict, path) -> None:
    """Fill a network that has more inputs, a linear path or more convolutions; see `warm_start`."""
    same = ("architecture", "residual", "filters", "depth", "shuffle", "norm", "use_bias",
            "negative_slope")  # fmt: skip
    if small["linear_path"]:
        same += ("linear_path",)  # it would be lost
    other = [key for key in same if small[key] != spec[key]]
    missing = [name for name in small["inputs"] if name not in spec["inputs"]]
    deeper = spec["convs_per_level"] - small["convs_per_level"]
    plain = spec["architecture"] == "unet" and spec["norm"] == "none" and not spec["negative_slope"]
    if other or missing or deeper < 0 or (deeper and not plain):
        raise ValueError(
            f"{path}: weights of another architecture: only inputs, a linear path and, for a ReLU "
            f"U-Net without norm, convs_per_level may grow; found {small}"
        )
    places = [spec["inputs"].index(name) for name in small["inputs"]]
    block = len(spec["inputs"])  # of the channels of one voxel
    at = [i * block + place for i in range(spec["shuffle"] ** 3) for place in places]
    grown = ("down0_0_conv/kernel", "down0_0_gate/kernel")
    with h5py.File(path) as file:
        for name, variable in _variables(model).items():
            stored = name if name in file else name.replace("_norm_target/", "_norm_source/")
            value = np.zeros(variable.shape, np.float32)
            if stored not in file and name.endswith("_conv/kernel"):
                value[1, 1, 1] = np.eye(variable.shape[-1])
            elif name in grown and small["inputs"] != spec["inputs"]:
                value[:, :, :, at] = file[name][()]
            elif name == "linear_path/kernel" and name in file:
                value[places] = file[name][()]
            elif stored in file:
                value[:] = file[stored][()]
            variable.assign(value)


def _widen(model: keras.Model, small: dict, spec: dict, path, other: set) -> None:
    """Fill a network that has more filters, and no norm and no bias; see `warm_start`."""
    plain = spec["architecture"] == "unet" and spec["norm"] == "none" and not spec["use_bias"]
    if other != {"filters"} or not plain:
        raise ValueError(
            f"{path}: weights of another architecture: filters may grow where there is neither "
            f"norm nor bias and all else is the same; found {small}"
        )
    with h5py.File(path) as file:
        kernels = {name: file[name][()] for name in _variables(model)}
    kernels = widened(kernels, small, spec, np.random.default_rng(spec["filters"]))
    for name, variable in _variables(model).items():
        variable.assign(kernels[name])


def _variables(model: keras.Model) -> dict:
    """Variables of a model's own layers (not of its optimizer or metrics) by `layer/variable`."""
    return {f"{layer.name}/{v.name}": v for layer in model.layers for v in layer.variables
            if v.name not in ("seed_generator_state",)}  # fmt: skip
