"""The package's imports go in one direction, and its picture in docs/ shows them."""

import ast
import runpy
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ARCHITECTURE = runpy.run_path(str(ROOT / "docs" / "architecture.py"))
ORDER, PACKAGE = ARCHITECTURE["ORDER"], ARCHITECTURE["PACKAGE"]
IMPORTS = ARCHITECTURE["imports"]()


def subpackage(path):
    return path.relative_to(PACKAGE).parts[0]


def test_the_package_consists_of_the_twelve_subpackages():
    folders = {path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"}
    modules = {path.name for path in PACKAGE.glob("*.py")}
    assert folders == set(ORDER) and modules == {"__init__.py", "__main__.py"}


def test_no_module_imports_from_a_later_subpackage():
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {module}"
        for path, line, module, _ in IMPORTS
        if subpackage(path) in ORDER and ORDER.index(module.split(".")[1]) > ORDER.index(subpackage(path))
    ]
    assert not wrong


def test_only_commands_import_the_package_inside_functions():
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {module} in a function"
        for path, line, module, nested in IMPORTS
        if nested and subpackage(path) != "cli"
    ]
    assert not wrong


def test_checks_are_imported_by_commands_only_and_commands_by_nothing():
    for path, line, module, _ in IMPORTS:
        imported, importer = module.split(".")[1], subpackage(path)
        if importer in ("__init__.py", "__main__.py"):
            continue
        assert imported != "cli" or importer == "cli", f"{path}:{line}"
        assert imported != "checks" or importer in ("checks", "cli"), f"{path}:{line}"


def test_the_package_never_imports_experiments():
    wrong = [path for path in PACKAGE.rglob("*.py") if "experiments" in imported_roots(path)]
    assert not wrong


def imported_roots(path):
    roots = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            roots |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            roots.add((node.module or "").split(".")[0])
    return roots


def test_no_modules_import_each_other_in_a_circle():
    graph = {}
    for path, _, module, nested in IMPORTS:
        if nested:
            continue
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        if module != name:  # a package's __init__ may import its own submodules by the package's name
            graph.setdefault(name, set()).add(module)
    finished, open_modules, cycles = set(), [], []

    def visit(name):
        if name in open_modules:
            cycles.append([*open_modules[open_modules.index(name) :], name])
            return
        if name in finished or name not in graph:
            return
        open_modules.append(name)
        for module in graph[name]:
            visit(module)
        finished.add(open_modules.pop())

    for name in list(graph):
        visit(name)
    assert not cycles


def test_no_module_uses_private_names_of_another():
    wrong = []
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("vladva_kit"):
                wrong += [f"{path.name}: {alias.name}" for alias in node.names if alias.name.startswith("_")]
    assert not wrong


def test_the_package_is_small():
    lines = sum(len(path.read_text(encoding="utf-8").splitlines()) for path in PACKAGE.rglob("*.py"))
    assert lines <= 22_000  # raise it with a reason: code that only a study or the pretraining needs lives outside


def test_the_picture_shows_todays_subpackages_and_arrows():
    picture = (ROOT / "docs" / "architecture.svg").read_text(encoding="utf-8")
    for importer, imported in ARCHITECTURE["counted_edges"]():
        assert f"<title>{importer} imports {imported}:" in picture, "run python docs/architecture.py"
    assert picture.count("<title>") == len(ARCHITECTURE["counted_edges"]())
