"""Configurations: defaults, then a file, then key=value; every mistake is one line and exit 1."""

import ast
import json
import os
import subprocess
import sys

import pytest

from configs import PROJECT_ROOT, Parser, die, load_config, run_step, save_config, write_text

STEPS = sorted(p.stem for p in (PROJECT_ROOT / "configs").glob("step*.py"))
FILES = sorted((PROJECT_ROOT / "configs").glob("*/*.py"))


def config_file(tmp_path, text):
    path = tmp_path / "changed.py"
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize("step", STEPS)
def test_defaults_load(step):
    config = load_config(step, [])
    assert not any("{run}" in str(value) for value in config.values())


@pytest.mark.parametrize("path", FILES, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_files_of_changed_keys_load(path):
    assert path.stem in STEPS
    config = load_config(path.stem, [str(path)])
    assert config["run"] in (path.parent.name, load_config(path.stem, [])["run"])
    assert ast.get_docstring(ast.parse(path.read_text()))


@pytest.mark.parametrize("folder", sorted({p.parent for p in FILES}), ids=lambda p: p.name)
def test_a_folder_of_configs_is_one_run(folder):
    runs = {load_config(p.stem, [str(p)])["run"] for p in folder.glob("step*.py")}
    assert runs == {folder.name}


@pytest.mark.parametrize("step", STEPS)
def test_every_key_has_a_comment(step):
    text = (PROJECT_ROOT / "configs" / f"{step}.py").read_text()
    lines, entries = text.splitlines(), None
    for node in ast.parse(text).body:
        if isinstance(node, ast.Assign) and node.targets[0].id == "config":
            entries = node.value
    for key, value in zip(entries.keys, entries.values, strict=True):
        before = lines[key.lineno - 2].strip()
        own = "".join(lines[key.lineno - 1 : value.end_lineno])
        assert "#" in own or before.startswith("#"), key.value


def test_file_then_command_line(tmp_path):
    path = config_file(tmp_path, "config = {'number': 7, 'seed': 3, 'run': 'mine'}")
    config = load_config("step1_genChi", [path, "number=9"])
    assert (config["number"], config["seed"], config["first"]) == (9, 3, 0)
    assert config["dstFolder"] == str(PROJECT_ROOT / "runs/mine/1_chi")
    assert load_config("step1_genChi", ["number=9", path])["number"] == 9


@pytest.mark.parametrize(
    ("step", "pair", "value"),
    [
        ("step1_genChi", "flips=True", True),
        ("step1_genChi", "flips=false", False),
        ("step1_genChi", "erosionRadius=3", 3),
        ("step1_genChi", "sourceRange=(0.3, 4)", (0.3, 4)),
        ("step1_genChi", "sourceRange=None", None),
        ("step1_genChi", "maskFile=None", None),
        ("step1_genChi", "contrasts=linear,none", ["linear", "none"]),
        ("step1_genChi", "sourceShapes={'sphere': 1.0}", {"sphere": 1.0}),
        ("step3_genRDFPatchesSyn", "inputs=[field,mask,tv]", ["field", "mask", "tv"]),
        ("step3_genRDFPatchesSyn", "inputs=['field']", ["field"]),
        ("step1_genChi", "contrasts=linear", ["linear"]),
        ("step3_genRDFPatchesSyn", "patch_size=48,32,40", (48, 32, 40)),
        ("step4_train", "learning_rate=1e-3", 1e-3),
        ("step4_train", "residual=tv", "tv"),
        ("step4_train", "run=2016", "2016"),
        ("step7_evaluate", "labelsFile=None", None),
        ("step4_train", "linear_path=True", True),
    ],
)
def test_values_on_the_command_line(step, pair, value):
    found = load_config(step, [pair])[pair.partition("=")[0]]
    assert found == value
    assert type(found) is type(value)


def test_paths_of_files_are_from_the_root_those_of_the_command_line_from_here(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    path = config_file(tmp_path, "config = {'chiFile': 'a/../chi.nii', 'run': 'x'}")
    config = load_config("step1_genChi", [path, "maskFile=sub/{run}.nii"])
    assert config["chiFile"] == str(PROJECT_ROOT / "chi.nii")
    assert config["maskFile"] == str(tmp_path / "sub/x.nii")
    assert config["dstFolder"] == str(PROJECT_ROOT / "runs/x/1_chi")
    absolute = load_config("step1_genChi", ["chiFile=/data/chi.nii", "run=y"])
    assert absolute["chiFile"] == "/data/chi.nii"
    assert load_config("step1_genChi", ["chiFile=~/c.nii"])["chiFile"] == os.path.expanduser(
        "~/c.nii"
    )


@pytest.mark.parametrize(
    ("step", "argument", "message"),
    [
        ("step1_genChi", "nubmer=4", "unknown key 'nubmer'; did you mean 'number'?"),
        ("step1_genChi", "xyzzy=4", "known keys: run, chiFile"),
        ("step1_genChi", "number=four", "key 'number' expects int"),
        ("step1_genChi", "number=4.5", "key 'number' expects int"),
        ("step1_genChi", "number=True", "key 'number' expects int"),
        ("step1_genChi", "number=None", "key 'number' expects int"),
        ("step1_genChi", "flips=1", "key 'flips' expects bool"),
        ("step1_genChi", "chiFile=None", "key 'chiFile' expects str"),
        ("step1_genChi", "contrasts=3", "key 'contrasts' expects list"),
        ("step1_genChi", "erosionRadius=wide", "key 'erosionRadius' expects float"),
        ("step4_train", "run=None", "key 'run' expects str"),
        ("step1_genChi", "missing.py", "missing.py is not there"),
        ("step1_genChi", "number", "expected a .py file of changed keys or key=value"),
    ],
)
def test_mistakes_on_the_command_line(step, argument, message):
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        load_config(step, [argument])
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("config = {'nubmer': 4}", "unknown key 'nubmer'; did you mean 'number'?"),
        ("config = {'number': '4'}", "key 'number' expects int"),
        ("config = {'maskFile': 4}", "key 'maskFile' expects a path or None"),
        ("conf = {}", "holds no dict named `config`"),
        ("config = {", "is not valid Python"),
        ("config = {'number': x}", "is not valid Python"),
        ("import nothing_of_this_name", "is not valid Python"),
        ("config = 1 / 0", "is not valid Python"),
    ],
)
def test_mistakes_in_a_file(tmp_path, text, message):
    path = config_file(tmp_path, text)
    with pytest.raises(ValueError, match=r"changed\.py") as error:
        load_config("step1_genChi", [path])
    assert message in str(error.value)


def test_saved_config_guards_its_folder(tmp_path):
    config = {"seed": 1, "shape": (3, 4, 5), "number": 2, "chiFile": None}
    path = save_config(config, tmp_path / "new")
    assert json.loads(path.read_text())["shape"] == [3, 4, 5]
    save_config(config, tmp_path / "new")
    save_config(config | {"number": 3}, tmp_path / "new", free=("number",))
    assert json.loads(path.read_text())["number"] == 3
    with pytest.raises(ValueError, match="was made with seed=1, now seed=2; choose another folder"):
        save_config(config | {"seed": 2}, tmp_path / "new", free=("number",))
    assert json.loads(path.read_text())["seed"] == 1
    assert [p.name for p in path.parent.iterdir()] == ["config.json"]


def test_a_project_that_was_moved_goes_on(tmp_path):
    keys = {"chiFile": str(PROJECT_ROOT / "runs/x/chi.nii.gz"), "step1.srcFolder": "/data/maps"}
    path = save_config(keys, tmp_path)
    path.write_text(path.read_text().replace(str(PROJECT_ROOT), "/home/else/where"))
    save_config(keys, tmp_path)
    for key, value in (("chiFile", "runs/y/chi.nii.gz"), ("step1.srcFolder", "maps")):
        with pytest.raises(ValueError, match=f"was made with {key}="):
            save_config(keys | {key: str(PROJECT_ROOT / value)}, tmp_path)


@pytest.mark.parametrize(
    ("keys", "status"), [({"PYTHONIOENCODING": "ascii"}, 0), ({"closed": ">&-"}, 1)]
)
def test_streams_that_take_no_greek_or_are_closed(keys, status):
    """χ becomes a `?`; without a standard output the error is still one line."""
    closed = keys.pop("closed", "")
    code = "from configs import die, open_streams; open_streams(); print('χ ±'); "
    code += "die('χ is bad')" if closed else ""
    run = subprocess.run(
        f'{sys.executable} -c "{code}" {closed}', shell=True, capture_output=True, text=True,
        cwd=PROJECT_ROOT, env=os.environ | keys, check=False,
    )  # fmt: skip
    assert run.returncode == status, run.stderr
    assert run.stdout == ("" if closed else "? ?\n")
    assert run.stderr == ("error: χ is bad\n" if closed else "")


def test_a_negative_number_in_powers_of_ten_is_a_number():
    parser = Parser()
    parser.add_argument("--b0-dir", type=float, nargs=3)
    assert parser.parse_args(["--b0-dir", "0", "-1e-3", "-.5"]).b0_dir == [0, -1e-3, -0.5]


def test_text_is_whole_or_absent(tmp_path, monkeypatch):
    write_text(tmp_path / "a.txt", "before")

    def killed(*names):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        write_text(tmp_path / "a.txt", "after")
    assert (tmp_path / "a.txt").read_text() == "before"


def test_die_is_one_line_and_exit_1(capsys):
    with pytest.raises(SystemExit) as stop:
        die("two\nlines")
    assert stop.value.code == 1
    assert capsys.readouterr().err == "error: two lines\n"


@pytest.mark.parametrize(
    "error",
    [
        ValueError("bad"),
        FileNotFoundError("gone"),
        ImportError("no torch"),
        MemoryError("16 TiB"),
        KeyboardInterrupt,
    ],
)
def test_run_step_turns_errors_into_one_line(monkeypatch, capsys, error):
    def main(config):
        raise error

    monkeypatch.setattr(sys, "argv", ["script.py"])
    with pytest.raises(SystemExit) as stop:
        run_step("step2_qsmFmapCal", main)
    assert stop.value.code == 1
    captured = capsys.readouterr()
    assert captured.err.startswith("error: [2 qsmFmapCal] ")
    assert captured.err.count("\n") == 1
    assert "'device': 'auto'" in captured.out  # the effective configuration is printed


def test_help_is_the_config_with_its_comments(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["script.py", "--help"])
    run_step("step2_qsmFmapCal", lambda config: pytest.fail("run"))
    said = capsys.readouterr().out
    assert '"noise_ppm"' in said
    assert "#" in said


def test_run_step_does_not_hide_bugs(monkeypatch):
    def main(config):
        raise KeyError("a bug")

    monkeypatch.setattr(sys, "argv", ["script.py"])
    with pytest.raises(KeyError):
        run_step("step2_qsmFmapCal", main)


@pytest.mark.parametrize(
    "script", ["training_data/genChi.py", "training_data/qsmFmapCal_gpu.py", "genRDFPatchesSyn.py"]
)
def test_scripts_run_from_any_folder_and_end_in_one_line(tmp_path, script):
    done = subprocess.run(
        [sys.executable, PROJECT_ROOT / script, "seeed=1"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "did you mean 'seed'?" in done.stderr
