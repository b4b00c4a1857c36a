"""Imports point one way, one file speaks to each foreign library, scripts stay short."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("configs", "training_data", "network_model")
SOURCES = sorted(p for f in FOLDERS for p in (ROOT / f).rglob("*.py"))
FILES = [*SOURCES, ROOT / "genRDFPatchesSyn.py"]
# What a library of each folder may import of this project; a script may import configs as well.
ALLOWED = {
    "configs": {"configs"},
    "training_data": {"training_data"},
    "network_model": {"training_data", "network_model"},
}
# Turn axes, or hand an image to a viewer; neither reads nor writes a file.
IN_MEMORY = ("network_model/subject.py", "network_model/report_pictures.py")
OURS = {*FOLDERS, "genRDFPatchesSyn"}

every_file = pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))


def imports(path):
    """Full names of all modules that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module
            yield from (f"{node.module}.{name.name}" for name in node.names)


def calls(path):
    """Names of all methods that a file calls."""
    nodes = ast.walk(ast.parse(path.read_text()))
    return {n.func.attr for n in nodes
            if isinstance(n, ast.Call) and isinstance(n.func, ast.Attribute)}  # fmt: skip


def is_script(path):
    return '__name__ == "__main__"' in path.read_text()


@every_file
def test_imports_point_one_way(path):
    where = path.relative_to(ROOT)
    found = {name.split(".")[0] for name in imports(path)} & OURS
    if where.parts[0] == "genRDFPatchesSyn.py":
        assert found <= set(FOLDERS)
    else:
        assert found <= ALLOWED[where.parts[0]] | ({"configs"} if is_script(path) else set())


@every_file
def test_scripts_are_imported_by_none(path):
    scripts = {".".join(p.relative_to(ROOT).with_suffix("").parts) for p in FILES if is_script(p)}
    assert not scripts & set(imports(path))


@every_file
def test_foreign_libraries_have_one_door(path):
    where, names = str(path.relative_to(ROOT)), set(imports(path))
    roots = {name.split(".")[0] for name in names}
    assert not roots & {"cupy", "cupyx"} or where == "training_data/backend.py"
    assert "nibabel" not in roots or where in ("training_data/nifti.py", *IN_MEMORY)
    if where in IN_MEMORY:
        assert not {"load", "save"} & calls(path)
    assert "keras" not in roots or where.startswith("network_model/")
    backends = {"network_model/layers.py", "network_model/train_model/build.py"}
    assert not roots & {"tensorflow", "jax", "torch"} or where in backends


@every_file
def test_no_file_edits_the_path(path):
    assert "sys.path" not in path.read_text()


@pytest.mark.parametrize("path", [p for p in FILES if is_script(p)], ids=lambda p: p.name)
def test_scripts_are_short_and_say_how_they_are_run(path):
    text = path.read_text()
    assert len(text.splitlines()) <= 150
    docstring = ast.get_docstring(ast.parse(text))
    assert f"python {path.relative_to(ROOT)}" in docstring


@every_file
def test_functions_are_short(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef):
            docstring = ast.get_docstring(node, clean=False) or ""
            length = node.end_lineno - node.lineno + 1 - len(docstring.splitlines())
            assert length <= 45, f"{node.name}: {length} lines"


@every_file
def test_modules_say_what_they_are(path):
    assert ast.get_docstring(ast.parse(path.read_text()))


@every_file
def test_scripts_quiet_tensorflow_before_they_import_it(path):
    """Imported later, `quiet` neither silences TensorFlow nor turns oneDNN on."""
    names = [name for name in imports(path) if name == "keras" or name.startswith("network_model.")]
    if is_script(path) and "keras" in names:
        assert names[0] == "network_model.quiet"
