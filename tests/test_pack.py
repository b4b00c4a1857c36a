"""Networks stacked in one file: their maps are those of one after the other; mistakes."""

from pathlib import Path

import numpy as np
import pytest
from scans import INVERSION, KERAS_ON_NUMPY, PLAIN, VOXEL, make_network, make_scan

from network_model import inference
from network_model.inference import predict
from network_model.pack import main
from network_model.refine import structured_share, towards_data
from network_model.subject import make_subject
from network_model.unet import load_network, make_spec, read_spec
from network_model.weight_files import check_weights, weights_hashes

pytestmark = KERAS_ON_NUMPY


@pytest.fixture
def files(tmp_path):
    """A network and two that were trained on its map, each in a file of its own."""
    make_network(tmp_path / "first.h5", INVERSION)
    keys = PLAIN | {"norm": "none", "firstFile": str(tmp_path / "first.h5")}
    for seed, name in enumerate(("second", "third"), 1):
        make_network(tmp_path / f"{name}.h5", keys | {"inputs": ["field", "first"]}, seed)
    return [str(tmp_path / f"{name}.h5") for name in ("first", "second", "third")]


def test_each_network_is_given_the_map_of_the_one_before(files, tmp_path):
    out = tmp_path / "weights/all.h5"
    main([str(out), *files, "--first-share", "0", "0", "--dtype", "float32"])
    scan = make_scan(seed=1)
    subject = make_subject(scan["field"], scan["mask"], VOXEL, (0, 0, 1), scan["magnitude"])
    geometry = (subject.field, subject.mask, VOXEL, subject.b0_dir)
    chi = predict(*load_network(files[0]), subject)
    structured = structured_share(*geometry)
    for file in files[1:]:
        model, spec = load_network(file)
        given = towards_data(chi, *geometry, structured=structured)
        channels = {"field": subject.field, "first": given}
        chi = predict(model, spec, subject, channels=channels)
    np.testing.assert_allclose(predict(*load_network(out), subject), chi, atol=1e-6)


def test_shares_and_hash_are_kept(files, tmp_path):
    out = tmp_path / "all.h5"
    (tmp_path / "SHA256SUMS").write_text("00  other.h5\n11  all.h5\n")
    main([str(out), *files, "--first-share", "0.25", "1"])
    assert read_spec(out)["first_share"] == 1
    assert read_spec(out, "/first")["first_share"] == 0.25
    assert read_spec(out, "/first/first")["inputs"] == INVERSION["inputs"]
    digest = check_weights(out)
    assert (tmp_path / "SHA256SUMS").read_text() == f"{digest}  all.h5\n00  other.h5\n"


def test_weights_of_the_last_network_can_be_averaged(files, tmp_path):
    out = tmp_path / "all.h5"
    keys = {"norm": "none", "firstFile": files[0], "inputs": ["field", "first"]}
    later = str(tmp_path / "later.h5")
    make_network(tmp_path / "later.h5", PLAIN | keys, seed=5)
    stack = [str(out), files[0], files[2], "--first-share", "0", "--dtype", "float32", "--average"]
    main([*stack, later])
    found, one, other = (load_network(f)[0].get_weights() for f in (out, files[2], later))
    for mean, a, b in zip(found, one, other, strict=True):
        np.testing.assert_allclose(mean, (a + b) / 2, atol=1e-7)
    before = out.read_bytes()
    make_network(tmp_path / "wider.h5", PLAIN | keys | {"filters": 5})
    with pytest.raises(ValueError, match="weights of other shapes"):
        main([*stack, str(tmp_path / "wider.h5")])
    assert out.read_bytes() == before


def test_another_first_map_where_errors_are_white(files, tmp_path, monkeypatch):
    make_network(tmp_path / "white.h5", INVERSION, seed=7)
    out = tmp_path / "all.h5"
    shares = ["--first-share", "0", "0.5", "--white", "white.h5", "--dtype", "float32"]
    main([str(out), *files, *shares])
    model, spec = load_network(out)
    scan = make_scan(seed=1)
    subject = make_subject(scan["field"], scan["mask"], VOXEL, (0, 0, 1), scan["magnitude"])
    geometry = (subject.field, subject.mask, VOXEL, subject.b0_dir)
    white = predict(*load_network(tmp_path / "white.h5"), subject)
    monkeypatch.setattr(inference, "flat_share", lambda *_: 0.0)
    for structured in (0.0, 0.3, 1.0):
        monkeypatch.setattr(inference, "structured_of", lambda *_, share=structured: share)
        second = predict(*load_network(out, group="/first"), subject)
        first = (1 - structured) * white + structured * second
        first = towards_data(first, *geometry, structured=structured)
        channels = inference.scan_channels(spec, subject)
        np.testing.assert_allclose(channels["first"], first, atol=1e-6)
        own = predict(model, spec | {"first_share": 0.0}, subject, channels=channels)
        expected = own + 0.5 * (1 - structured) * (first - own)
        np.testing.assert_allclose(predict(model, spec, subject), expected, atol=1e-6)
    (tmp_path / "white.h5").unlink()
    with pytest.raises(ValueError, match=r"all\.h5: needs white.h5 beside it, found none"):
        load_network(out)
    with pytest.raises(ValueError, match=r"white\.h5: no such weights"):
        main([str(out), *files, *shares])
    with pytest.raises(ValueError, match=r"white_file: .* add that input"):
        make_spec({"white_file": "white.h5"})


def test_a_network_for_structured_errors_is_packed_alone(files, tmp_path, monkeypatch):
    alone, out = tmp_path / "again.h5", tmp_path / "all.h5"
    main([str(alone), files[2], "--dtype", "float32"])
    assert alone.stat().st_size < Path(files[2]).stat().st_size
    weights, packed = (load_network(f)[0].get_weights() for f in (files[2], alone))
    for a, b in zip(weights, packed, strict=True):
        np.testing.assert_array_equal(a, b)
    main([str(out), *files[:2], "--first-share", "0", "--structured", "again.h5"])
    spec = read_spec(out)
    assert spec["structured"] == {"path": str(alone), "group": "/"}
    assert list(weights_hashes(out)) == [out, alone]
    scan = make_scan(seed=1)
    subject = make_subject(scan["field"], scan["mask"], VOXEL, (0, 0, 1), scan["magnitude"])
    monkeypatch.setattr(inference, "structured_of", lambda *_: 1.0)
    chi = predict(*load_network(files[1]), subject)
    assert np.abs(predict(*load_network(out), subject) - chi).max() > 1e-4
    with pytest.raises(ValueError, match=r"again\.h5: holds a network that corrects .* another"):
        weights_hashes(alone)
    with pytest.raises(ValueError, match=r"first\.h5: takes no map of another network"):
        main([str(tmp_path / "x.h5"), files[0]])
    alone.unlink()
    with pytest.raises(ValueError, match=r"all\.h5: needs again.h5 beside it, found none"):
        load_network(out)


def test_the_networks_below_may_stay_in_a_file_beside(files, tmp_path):
    below, top, out = (tmp_path / f"{name}.h5" for name in ("below", "top", "all"))
    main([str(below), *files[:2], "--first-share", "0", "--dtype", "float32"])
    main([str(top), files[2], "--below", "below.h5", "--dtype", "float32"])
    main([str(out), *files, "--first-share", "0", "0", "--dtype", "float32"])
    assert list(weights_hashes(top)) == [top, below]
    scan = make_scan(seed=1)
    subject = make_subject(scan["field"], scan["mask"], VOXEL, (0, 0, 1), scan["magnitude"])
    expected = predict(*load_network(out), subject)
    np.testing.assert_array_equal(predict(*load_network(top), subject), expected)

    # A network that is given its map in a training takes all of them along.
    keys = {"norm": "none", "firstFile": str(top), "inputs": ["field", "first"]}
    (tmp_path / "run").mkdir()
    make_network(tmp_path / "run" / "weights.h5", PLAIN | keys)
    spec = read_spec(tmp_path / "run" / "weights.h5")
    np.testing.assert_array_equal(predict(*load_network(**spec["first"]), subject), expected)

    with pytest.raises(ValueError, match="--below: for a single network"):
        main([str(out), *files, "--first-share", "0", "0", "--below", "below.h5"])
    with pytest.raises(ValueError, match=r"below_file: .* add that input"):
        make_spec({"below_file": "below.h5"})
    below.unlink()
    with pytest.raises(ValueError, match=r"top\.h5: needs below.h5 beside it, found none"):
        load_network(top)


def test_the_structured_share_is_found_once(files, tmp_path, monkeypatch):
    out = tmp_path / "all.h5"
    main([str(out), *files, "--first-share", "0.5", "0.5"])
    scan, calls = make_scan(seed=1), []
    subject = make_subject(scan["field"], scan["mask"], VOXEL, (0, 0, 1), scan["magnitude"])
    monkeypatch.setattr(inference, "structured_share", lambda *_, **__: calls.append(1) or 0.5)
    predict(*load_network(out), subject)
    assert len(calls) == 1


@pytest.mark.parametrize(
    ("names", "shares", "message"),
    [
        (["first"], [], "takes no map of another network"),
        (["first", "second"], ["0.5", "1"], "2 networks and 2 shares"),
        (["second", "first"], ["1"], "first.h5: takes no map"),
        (["first", "second"], ["1.5"], "first_share 1.5"),
        (["first", "none"], ["1"], "no such weights"),
    ],
)
def test_mistakes(files, tmp_path, names, shares, message):
    out = tmp_path / "all.h5"
    given = [str(tmp_path / f"{name}.h5") for name in names]
    with pytest.raises(ValueError, match=message):
        main([str(out), *given, "--first-share", *shares])
    assert not out.exists()
