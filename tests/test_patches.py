"""Step 3 through its main: what a patch holds, where it is from, and runs that were cut short."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import h5py
import numpy as np
import pytest
from maps import SHAPE, VOXEL, contents, make_map, write_maps

from configs import PROJECT_ROOT, load_config, save_config
from genRDFPatchesSyn import main, write_part
from training_data.channels import make_channels
from training_data.nifti import read_volume
from training_data.qsmFmapCal_gpu import main as make_fields
from training_data.volume import bounding_box

PATCH, STRIDE = (16, 20, 16), (7, 10, 8)
B0 = (0.1, -0.3, 0.95)


@pytest.fixture(scope="module")
def maps(tmp_path_factory):
    """Three maps with fields; the second one is narrower than a patch."""
    folder = write_maps(tmp_path_factory.mktemp("maps"), 3, shapes=[SHAPE, (30, 19, 27), SHAPE])
    fields = load_config("step2_qsmFmapCal", [])
    make_fields(fields | {"srcFolder": str(folder), "device": "cpu"})
    return folder


def options(source, folder, **keys):
    config = load_config("step3_genRDFPatchesSyn", [])
    paths = {"srcFolder": str(source), "dstFile": str(folder / "patches.h5")}
    return config | {"patch_size": PATCH, "overlap_size": STRIDE} | paths | keys


def run(source, folder, **keys):
    main(options(source, folder, **keys))
    return h5py.File(folder / "patches.h5")


def source_arrays(maps, index, names=()):
    """The arrays that patches of a map are cut from, cropped to the mask and padded with zeros."""
    chi, mask = make_map(index, [SHAPE, (30, 19, 27), SHAPE][index])
    field = read_volume(maps / f"map_{index:04d}/fmap_suscp.nii.gz").data
    arrays = {"field": field, "chi": chi, "mask": mask}
    if names:
        channels = make_channels(field, mask, VOXEL, B0, names)
        arrays["extra"] = np.stack([channels[n] for n in names], -1)
    box, out = bounding_box(mask), {}
    for name, x in arrays.items():
        cut = x[box]
        pads = [max(0, p - n) for p, n in zip(PATCH, cut.shape[:3], strict=True)]
        widths = [(n // 2, n - n // 2) for n in pads] + [(0, 0)] * (x.ndim - 3)
        out[name] = np.pad(cut, widths)
    return out


def test_compressed_and_plain_parts_cannot_be_mixed(maps, tmp_path):
    run(maps, tmp_path).close()
    (tmp_path / "patches.h5").unlink()
    with pytest.raises(ValueError, match="was made with compression='lzf', now compression=None"):
        run(maps, tmp_path, compression=None)


def test_processes_cut_the_same_patches(maps, tmp_path):
    keys = {"inputs": ["field", "mask", "tikhonov"], "compression": None}
    files = [
        run(maps, tmp_path / str(number), **keys, processes=number) for number in (1, 2)
    ]  # fmt: skip
    assert files[0]["extra"].compression is None
    for name in files[0]:
        np.testing.assert_array_equal(files[0][name], files[1][name])


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("inputs", [["field", "mask"], ["field", "mask", "noise", "tikhonov"]])
def test_patches_hold_the_voxels_at_their_corners(maps, tmp_path, dtype, inputs):
    names = inputs[2:]
    file = run(maps, tmp_path, dtype=dtype, inputs=inputs)
    sources = {f"map_{i:04d}".encode(): source_arrays(maps, i, names) for i in range(3)}
    assert set(file) == {"field", "chi", "mask", "sample", "corner"} | (
        {"extra"} if names else set()
    )
    assert list(file.attrs["inputs"]) == inputs
    assert file["field"].dtype == dtype
    assert file["mask"].dtype == np.uint8
    assert file["chi"].chunks == (1, *PATCH)
    assert set(file["sample"][:]) == set(sources)
    covered = {name: np.zeros(s["mask"].shape, bool) for name, s in sources.items()}
    for i, (sample, corner) in enumerate(zip(file["sample"], file["corner"], strict=True)):
        at = tuple(slice(c, c + n) for c, n in zip(corner, PATCH, strict=True))
        covered[sample][at] = True
        for name, x in sources[sample].items():
            expected = x[at].astype(file[name].dtype)
            np.testing.assert_allclose(file[name][i], expected, rtol=1e-3, atol=1e-6)
    assert all(c.all() for c in covered.values())


def test_choice_of_patches(maps, tmp_path):
    everything = run(maps, tmp_path / "all")
    file = run(maps, tmp_path / "some", patches_per_map=3, min_brain=0.4)
    samples, counts = np.unique(file["sample"], return_counts=True)
    assert len(samples) == 3
    assert counts.max() <= 3
    assert (file["mask"][:].mean((1, 2, 3)) >= 0.4).all()
    assert len(everything["mask"]) > len(file["mask"])
    full = run(maps, tmp_path / "full", min_brain=1.0)  # none is that full: the best one is kept
    assert set(full["sample"][:]) == set(samples)
    other = run(maps, tmp_path / "other", patches_per_map=3, min_brain=0.4, seed=1)
    assert (other["corner"][:] != file["corner"][:]).any()


def test_a_run_that_was_cut_short_ends_in_the_same_bytes(maps, tmp_path, monkeypatch):
    run(maps, tmp_path / "whole").close()
    whole = contents(tmp_path / "whole")
    assert list(whole) == ["patches.h5"]

    cut = tmp_path / "cut"
    config, parts = options(maps, cut), cut / "patches_parts"
    parts.mkdir(parents=True)
    write_part(maps / "map_0001", parts / "map_0001.h5", config)
    (parts / "map_0002.tmp").write_bytes(b"half a part")
    (cut / ".patches.h5.tmp").write_bytes(b"half a file")
    seen = []
    monkeypatch.setattr("genRDFPatchesSyn.write_part",
                        lambda *args: (seen.append(args[1].stem), write_part(*args)))  # fmt: skip
    main(config)
    assert seen == ["map_0000", "map_0002"]
    assert contents(cut) == whole

    parts.mkdir()  # killed between the last rename and the removal of the parts
    (parts / "map_0000.h5").write_bytes(b"")
    main(config)
    assert contents(cut) == whole
    assert seen == ["map_0000", "map_0002"]


def test_a_finished_file_takes_up_more_maps_and_ends_in_the_same_bytes(maps, tmp_path):
    whole, grown, fewer = (tmp_path / name for name in ("whole", "grown", "fewer"))
    run(maps, whole).close()
    shutil.copytree(maps, fewer)
    shutil.rmtree(fewer / "map_0002")
    run(fewer, grown).close()
    shutil.copytree(maps / "map_0002", fewer / "map_0002")
    run(fewer, grown).close()
    assert contents(grown) == contents(whole)

    shutil.rmtree(fewer / "map_0000")
    with pytest.raises(ValueError, match=r"patches\.h5: holds map_0000, which is not in "):
        run(fewer, grown)
    assert contents(grown) == contents(whole)


def test_a_patch_file_that_is_none_is_named_and_kept(maps, tmp_path):
    (tmp_path / "patches.h5").write_bytes(b"none")
    with pytest.raises(ValueError, match=r"patches\.h5: not a patch file of step 3"):
        run(maps, tmp_path)
    assert (tmp_path / "patches.h5").read_bytes() == b"none"


def test_kill_9_and_the_same_command(maps, tmp_path):
    keys = ["inputs=field,mask,noise,tv", f"srcFolder={maps}"]
    keys += [f"{k}={list(v)}" for k, v in (("patch_size", PATCH), ("overlap_size", STRIDE))]

    def start(folder):
        command = [sys.executable, PROJECT_ROOT / "genRDFPatchesSyn.py", *keys]
        return subprocess.Popen([*command, f"dstFile={folder}/patches.h5"],
                                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip

    killed, parts = start(tmp_path / "killed"), tmp_path / "killed/patches_parts"
    for _ in range(6000):
        if list(parts.glob("*.h5")) or killed.poll() is not None:
            break
        time.sleep(0.05)
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    assert not (tmp_path / "killed/patches.h5").exists()
    assert start(tmp_path / "killed").wait() == 0
    assert start(tmp_path / "whole").wait() == 0
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


def test_a_finished_file_is_left_alone(maps, tmp_path, capsys):
    run(maps, tmp_path).close()
    stamp = (tmp_path / "patches.h5").stat().st_mtime_ns
    run(maps, tmp_path).close()
    assert (tmp_path / "patches.h5").stat().st_mtime_ns == stamp
    assert "is finished" in capsys.readouterr().out
    with pytest.raises(ValueError, match="was made with seed=0, now seed=1"):
        run(maps, tmp_path, seed=1)


def test_maps_and_fields_made_with_other_parameters_are_refused(tmp_path):
    source, folder = write_maps(tmp_path / "maps", 1), tmp_path / "out"
    maps = {"seed": 0, "number": 1, "chi_sha256": "a"}
    save_config(maps, source)
    fields = load_config("step2_qsmFmapCal", []) | {"srcFolder": str(source), "device": "cpu"}
    make_fields(fields)
    run(source, folder).close()
    save_config(maps | {"number": 2}, source, free=("number",))  # more maps: of the same kind
    run(source, folder).close()
    for step, name, keys, changed in (
        ("step1", "config.json", maps, {"seed": 1}),
        ("step1", "config.json", maps, {"chi_sha256": "b"}),
        ("step2", "config_fields.json", fields, {"noise_ppm": [0.01, 0.02]}),
    ):
        kept = (source / name).read_text()
        (source / name).unlink()  # as where the folder was deleted and made again
        save_config(keys | changed, source, name)
        key = f"{step}.{next(iter(changed))}"
        with pytest.raises(ValueError, match=rf"was made with {key}=.*, now {key}="):
            run(source, folder)
        (source / name).write_text(kept)
    run(source, folder).close()


def write_weights(path, **spec):
    """A file that is hashed as a network, with its specification alone; its SHA-256."""
    with h5py.File(path, "w") as file:
        file.attrs["spec"] = json.dumps({"inputs": ["field", "mask"]} | spec)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_patches_of_another_first_network_are_refused(maps, tmp_path, monkeypatch):
    weights, beside = tmp_path / "top.h5", tmp_path / "below.h5"
    digests = [
        write_weights(weights, inputs=["field", "mask", "first"], below_file="below.h5"),
        write_weights(beside),
    ]
    monkeypatch.setattr(
        "genRDFPatchesSyn.input_channels",
        lambda field, sample, names, file: dict.fromkeys(names, field),
    )
    keys = {"inputs": ["field", "mask", "first"], "firstFile": str(weights)}
    attributes = run(maps, tmp_path / "out", **keys).attrs
    assert [attributes[f"{name}_sha256"] for name in ("first", "below")] == digests
    write_weights(beside, filters=8)
    with pytest.raises(ValueError, match="was made with below_sha256="):
        run(maps, tmp_path / "out", **keys)
    write_weights(beside)
    run(maps, tmp_path / "out", **keys).close()
    write_weights(weights, inputs=["field", "mask", "first"], below_file="below.h5", filters=8)
    with pytest.raises(ValueError, match="was made with first_sha256="):
        run(maps, tmp_path / "out", **keys)
    assert "first_sha256" not in run(maps, tmp_path / "plain", firstFile=str(weights)).attrs


def test_a_bad_map_is_named_and_nothing_half_is_left(tmp_path, capsys):
    folder = write_maps(tmp_path / "maps")
    make_fields(load_config("step2_qsmFmapCal", []) | {"srcFolder": str(folder), "device": "cpu"})
    field = folder / "map_0001/fmap_suscp.nii.gz"
    whole = field.read_bytes()
    field.write_bytes(whole[:200])
    with pytest.raises(ValueError, match="1 of 3 maps failed: map_0001"):
        run(folder, tmp_path / "out")
    assert "map_0001/fmap_suscp.nii.gz: not a readable NIfTI" in capsys.readouterr().out
    assert not (tmp_path / "out/patches.h5").exists()
    field.write_bytes(whole)
    assert len(np.unique(run(folder, tmp_path / "out")["sample"])) == 3


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"patch_size": (16, 16)}, "patch_size"),
        ({"patch_size": (16, 16.5, 16)}, "patch_size"),
        ({"overlap_size": (8, 0, 8)}, "overlap_size"),
        ({"dtype": "int8"}, "expected one of float32, float16"),
        ({"inputs": ["field", "phase"]}, "inputs"),
        ({"inputs": ["field", "first"]}, "firstFile None: no such weights"),
        ({"min_brain": 1.5}, "min_brain"),
        ({"patches_per_map": -1}, "patches_per_map"),
    ],
)
def test_bad_options(maps, tmp_path, keys, message):
    with pytest.raises(ValueError, match=message):
        run(maps, tmp_path, **keys)


def test_no_fields(tmp_path):
    with pytest.raises(ValueError, match="run step 2 first"):
        run(write_maps(tmp_path / "maps", 1), tmp_path)
