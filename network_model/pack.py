"""Stack networks in one weights file: each is given the map of the one before as channel "first".

    python network_model/pack.py all.h5 first.h5 second.h5 third.h5 --first-share 0.5 1.0
    python network_model/pack.py again.h5 fourth.h5
    python network_model/pack.py last.h5 third.h5 --below second.h5

The file is written whole or not at all, and listed with its SHA-256 in `SHA256SUMS` beside it,
which step 6 checks. `--first-share`, a number per network but the first, sets that key of step 4:
how much of the map of the one before is in the mean where a scan's errors are white. `--white`
and `--structured` name files that stay beside the output: the network of the former makes that map
where errors are white, that of the latter corrects the last one's map where they are structured. It
is packed alone, without the networks below it, which are those of the other file. `--below` names
a file that holds them for a network that is packed alone: hosts of code refuse large files.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

import h5py

import network_model.quiet  # noqa: F401  before Keras
from configs import Parser, die, write_text
from network_model.unet import BESIDE, load_network, make_spec, read_spec, save_network
from training_data.channels import FIRST
from training_data.origin import listed

TAG = "[pack]"


def parser() -> argparse.ArgumentParser:
    """Command line."""
    p = Parser(tag=TAG, prog="pack.py", description=__doc__.splitlines()[0])
    p.add_argument("output", type=Path, help="weights file to write")
    p.add_argument("networks", type=Path, nargs="+", help="weights files of step 4, first to last")
    p.add_argument("--first-share", type=float, nargs="*", help="of every network but the first")
    p.add_argument("--white", help="file beside the output: last network's first, white errors")
    p.add_argument("--average", type=Path, help="file whose weights the last network's are "
                   "averaged with: of a training that began with them")  # fmt: skip
    p.add_argument("--structured", help="file beside the output: corrects the last network's map")
    p.add_argument("--below", help="file beside the output: of the networks below a single one")
    p.add_argument("--dtype", default="float16", choices=("float16", "float32"))
    return p


def pack(
    networks: list[Path],
    shares: list[float],
    output: Path,
    dtype: str,
    average=None,
    **beside,
) -> None:
    """Write each network with the one before it inside, the last one to `output`.

    Args:
        networks: weights files, first to last; the first is copied as it is, and left out where it
            is the only one.
        shares: `first_share` of every network but the first.
        output: file to write; dtype: of all but the first.
        average: weights file whose mean with the last network's weights is taken (Wortsman et al.
            2022, "Model soups", arXiv:2203.05482), or None.
        beside: `below_file`, `white_file` and `structured_file` of the last network: names of
            weights files beside `output`, or None; the first of them for a single network only.

    Raises:
        ValueError: a file that is none of this project's, a network after the first that takes no
            map of another, a share out of 0 to 1, or numbers that do not match.
    """
    if len(shares) != len(networks) - 1:
        raise ValueError(f"{len(networks)} networks and {len(shares)} shares: expected a "
                         "--first-share for each network but the first")  # fmt: skip
    for name in filter(None, beside.values()):
        read_spec(output.with_name(name))
    if len(networks) == 1:
        return write_alone(networks[0], output, dtype, average, **beside)
    if beside.get("below_file"):
        raise ValueError("--below: for a single network; here those below it come with it")
    with tempfile.TemporaryDirectory() as folder:
        inside = networks[0]
        for i, (path, share) in enumerate(zip(networks[1:], shares, strict=True), 1):
            if FIRST not in read_spec(path)["inputs"]:
                raise ValueError(f"{path}: takes no map of another network (input {FIRST!r})")
            model, spec = load_network(path, ("source", "target"))
            last = i == len(networks) - 1
            if last and average:
                average_weights(model, average)
            spec |= {"first_share": share, "firstFile": inside}
            spec = make_spec(spec | dict.fromkeys(BESIDE) | (beside if last else {}))
            inside = output if last else Path(folder) / f"{i}.h5"
            save_network(model, spec, inside, notes_of(path), dtype)


def write_alone(path: Path, output: Path, dtype: str, average=None, **beside) -> None:
    """Write a network without those whose map it is given."""
    if FIRST not in read_spec(path)["inputs"]:
        raise ValueError(f"{path}: takes no map of another network; expected two files or more")
    model, spec = load_network(path, ("source", "target"))
    if average:
        average_weights(model, average)
    spec = spec | dict.fromkeys((FIRST, *BESIDE)) | beside
    save_network(model, spec, output, notes_of(path), dtype)


def notes_of(path: Path) -> dict:
    """What a weights file says of its training."""
    with h5py.File(path) as file:
        return json.loads(file.attrs["notes"])


def average_weights(model, path: Path) -> None:
    """Set a network's weights to their mean with those of a file.

    Raises:
        ValueError: the file's weights have other shapes.
    """
    ours = model.get_weights()
    others = load_network(path, ("source", "target"))[0].get_weights()
    if [w.shape for w in ours] != [w.shape for w in others]:
        raise ValueError(f"{path}: weights of other shapes; expected a later training of the last")
    model.set_weights([(a + b) / 2 for a, b in zip(ours, others, strict=True)])


def main(argv: list[str]) -> None:
    """Pack the networks that the command line names."""
    args = parser().parse_args(argv)
    pack(args.networks, args.first_share or [], args.output, args.dtype, args.average,
         below_file=args.below, white_file=args.white, structured_file=args.structured)  # fmt: skip
    write_text(*listed(args.output))
    print(f"{TAG} {len(args.networks)} network(s) in {args.output}, "
          f"{args.output.stat().st_size / 1e6:.1f} MB", flush=True)  # fmt: skip


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (ValueError, OSError) as problem:
        die(f"{TAG} {problem}")
