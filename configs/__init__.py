"""Configurations of the numbered steps: one dict per step, changed by a file and by ``key=value``.

``python training_data/genChi.py configs/demo/step1_genChi.py number=4`` takes the dict of
``configs/step1_genChi.py``, then the keys of the file, then the one on the command line.
A path in a config file is relative to the project's root, one on the command line to the current
folder; ``{run}`` in any string is replaced by the key ``run``.
"""

import argparse
import ast
import difflib
import importlib
import json
import os
import pprint
import re
import runpy
import sys
from pathlib import Path

PROJECT_ROOT = Path(__file__).resolve().parent.parent
_PATH_ENDINGS = ("File", "Folder", "_path", "Path")


def open_streams() -> None:
    """Standard streams that take any text: closed ones go nowhere, and what they lack is a `?`."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115, until the process ends
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")


def die(message: str) -> None:
    """Print one line on standard error and exit with status 1."""
    sys.stdout.flush()
    sys.stderr.write("error: " + " ".join(str(message).split()) + "\n")
    raise SystemExit(1)


class Parser(argparse.ArgumentParser):
    """Argument parser whose errors are one line, after a tag, and exit status 1."""

    def __init__(self, *args, tag: str = "", **kwargs):
        super().__init__(*args, **kwargs)
        self.tag = tag
        # By argparse's own rule -1e-3 is an option.
        self._negative_number_matcher = re.compile(r"-(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?$")

    def error(self, message):
        die(f"{self.tag} {message}")


def load_config(step: str, argv: list[str]) -> dict:
    """Configuration of a step: its defaults, then files of changed keys, then ``key=value``.

    Args:
        step: name of a module in ``configs`` with a dict ``config``, e.g. ``"step1_genChi"``.
        argv: the script's arguments without its own name: ``*.py`` files and ``key=value``.

    A value may be None where the default is, and for the keys that the step lists as ``optional``.

    Raises:
        ValueError: unknown key, wrong type, an argument of another form, or a file without
            ``config``.
        FileNotFoundError: a file of changed keys is not there.
    """
    module = importlib.import_module(f"configs.{step}")
    defaults, optional = module.config, getattr(module, "optional", ())
    config = {key: _rooted(key, value, PROJECT_ROOT) for key, value in defaults.items()}
    pairs = [a for a in argv if "=" in a and not a.endswith(".py")]
    for name in (a for a in argv if a not in pairs):
        for key, value in _changed_keys(name).items():
            _check(key, value, defaults, optional, name)
            config[key] = _rooted(key, value, PROJECT_ROOT)
    for pair in pairs:
        key, _, text = pair.partition("=")
        if key not in defaults:
            raise ValueError(_unknown(key, defaults, "the command line"))
        value = _parse(key, text, defaults[key])
        _check(key, value, defaults, optional, "the command line")
        config[key] = _rooted(key, value, Path.cwd())
    return {key: _substitute(value, config.get("run", "")) for key, value in config.items()}


def save_config(config: dict, folder: str | Path, name: str = "config.json", free=()) -> Path:
    """Keep the effective configuration beside what it makes (written atomically).

    Args:
        config: the effective configuration.
        folder: the run's folder.
        name: file name in it.
        free: keys that may differ between runs into one folder, e.g. ``("number", "device")``.

    Raises:
        ValueError: the folder was made with another value of a key that is not in `free`.
    """
    target = Path(folder) / name
    text = json.dumps(config, indent=1, sort_keys=True, default=list) + "\n"
    if target.is_file():
        old, new = json.loads(target.read_text()), json.loads(text)
        changed = [k for k in new if k not in free and k in old and not _same(k, old[k], new[k])]
        if changed:
            key = changed[0]
            raise ValueError(
                f"{folder}: was made with {key}={old[key]!r}, now {key}={new[key]!r}; "
                "choose another folder (run=NAME) or delete it"
            )
    write_text(target, text)
    return target


def _same(key: str, old, new) -> bool:
    """Whether a value is what it was; a path below runs/ is that in a copy of the project, too."""
    below = f"{PROJECT_ROOT / 'runs'}{os.sep}"
    if key.endswith(_PATH_ENDINGS) and isinstance(old, str) and str(new).startswith(below):
        return old.endswith(os.path.join(os.sep, "runs", new.removeprefix(below)))
    return old == new


def write_text(path: str | Path, text: str) -> None:
    """Write a text file under a temporary name and rename it, so that it is whole or absent."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(text)
    os.replace(temporary, path)


def run_step(step: str, main) -> None:
    """Entry point of a numbered script: load and print its config, run ``main(config)``.

    A ValueError or OSError, the kinds that bad input raises, a library that is not installed and a
    lack of memory become one line and exit status 1.
    ``--help`` prints the step's config with its comments.
    """
    open_streams()
    number = step.removeprefix("step").replace("_", " ", 1)
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(Path(importlib.import_module(f"configs.{step}").__file__).read_text(), end="")
        return
    try:
        config = load_config(step, sys.argv[1:])
        print(f"[{number}] configuration\n{pprint.pformat(config, sort_dicts=False)}", flush=True)
        main(config)
    except (ValueError, OSError, ImportError) as error:
        die(f"[{number}] {error}")
    except MemoryError as error:
        die(f"[{number}] out of memory ({error}); smaller patches or fewer processes need less")
    except KeyboardInterrupt:
        die(f"[{number}] stopped; the same command goes on from here")


def _changed_keys(name: str) -> dict:
    path = Path(name)
    if path.suffix != ".py":
        raise ValueError(f"argument {name!r}: expected a .py file of changed keys or key=value")
    if not path.is_file():
        raise FileNotFoundError(
            f"config file {name} is not there; expected a .py file with `config = {{...}}`"
        )
    try:
        keys = runpy.run_path(str(path)).get("config")
    except (Exception, SystemExit) as error:
        raise ValueError(f"config file {name} is not valid Python: {error}") from error
    if not isinstance(keys, dict):
        raise ValueError(f"config file {name} holds no dict named `config`")
    return keys


def _parse(key: str, text: str, default):
    """Value of `key=text`: words are left as they are, all else is read as Python."""
    if isinstance(default, str) or (default is None and key.endswith(_PATH_ENDINGS)):
        return None if text == "None" else text
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        if isinstance(default, (list, tuple)):  # words without quotes, or one
            return [word.strip() for word in text.strip("[]()").split(",")]
        return {"true": True, "false": False}.get(text.lower(), text)


def _check(key: str, value, defaults: dict, optional, source: str) -> None:
    if key not in defaults:
        raise ValueError(_unknown(key, defaults, source))
    default = defaults[key]
    if default is None and key.endswith(_PATH_ENDINGS) and not isinstance(value, (str, type(None))):
        raise ValueError(f"{source}: key {key!r} expects a path or None, got {value!r}")
    if default is None or (value is None and key in optional):
        return
    expected = {float: (int, float), list: (list, tuple), tuple: (list, tuple)}.get(
        type(default), type(default)
    )
    if not isinstance(value, expected) or isinstance(value, bool) != isinstance(default, bool):
        raise ValueError(
            f"{source}: key {key!r} expects {type(default).__name__} (default {default!r}), "
            f"got {value!r}"
        )


def _unknown(key: str, defaults: dict, source: str) -> str:
    near = difflib.get_close_matches(key, defaults, n=1, cutoff=0.4)
    hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(defaults)}"
    return f"{source}: unknown key {key!r}; {hint}"


def _rooted(key: str, value, root: Path):
    if isinstance(value, str) and value and key.endswith(_PATH_ENDINGS):
        return os.path.normpath(root / Path(value).expanduser())
    return value


def _substitute(value, run: str):
    if isinstance(value, str):
        return value.replace("{run}", run)
    if isinstance(value, (list, tuple)):
        return type(value)(_substitute(v, run) for v in value)
    return value
