"""Who may import whom: read from the source, so that no import hides in a function.

floor 3   edgetext.cli
floor 2   edgetext_export, edgetext_bench
floor 1   edgetext
floor 0   edgetext_runtime
"""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OURS = {"edgetext", "edgetext_export", "edgetext_bench", "edgetext_runtime"}

PEERS = {
    *("ctranslate2", "gguf", "llama_cpp", "onnxruntime", "onnxruntime_genai", "safetensors", "torch"),
    "transformers",
}
"""What `edgetext bench --peers` measures beside our own."""
RUNTIME = ROOT / "runtime"
FLOORS = {
    # name: (folder, what of ours it may import, third parties it may import: None is any)
    "edgetext_runtime": ("runtime/edgetext_runtime", set(), {"numpy", "onnxruntime"}),
    "edgetext": ("edgetext", {"edgetext_runtime"}, None),
    "edgetext_export": ("export/edgetext_export", {"edgetext", "edgetext_runtime"}, None),
    "edgetext_bench": ("bench/edgetext_bench", {"edgetext_runtime"}, {"numpy", "matplotlib", *PEERS}),
}
LAZY = {"edgetext_runtime": {"onnxruntime"}, "edgetext_bench": {"matplotlib", *PEERS}}
"""Third parties that may be imported inside functions only."""
CLI = "edgetext/cli"
CLI_EAGER = {"click"}
"""All that a command may import before it is run, beside the standard library and its own package."""


def sources(folder):
    return sorted((ROOT / folder).rglob("*.py"))


def imports(path):
    """Yield (top-level name, full name, whether it runs when the module is imported) per import."""

    def visit(node, eager):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                for alias in child.names:
                    yield alias.name, eager
            elif isinstance(child, ast.ImportFrom):
                # The runtime alone imports itself relatively, so that it works under another name.
                assert child.level <= path.is_relative_to(RUNTIME), f"{path}: a relative import"
                yield (f"edgetext_runtime.{child.module}" if child.level else child.module), eager
            elif isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING"):
                for statement in child.orelse:
                    yield from visit(ast.Module([statement], []), eager)
            else:
                is_function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
                yield from visit(child, eager and not is_function)

    for name, eager in visit(ast.parse(path.read_text(encoding="utf-8")), True):
        yield name.split(".")[0], name, eager


def is_third_party(top):
    return top not in sys.stdlib_module_names and top not in OURS


def files_of(floor):
    folder = FLOORS[floor][0]
    found = [path for path in sources(folder) if not path.is_relative_to(ROOT / CLI)]
    assert found, f"no sources in {folder}"
    return found


@pytest.mark.parametrize("floor", FLOORS)
def test_imports_point_down_only(floor):
    allowed = FLOORS[floor][1] | {floor}
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in files_of(floor)
        for top, name, _ in imports(path)
        if (top in OURS and top not in allowed) or name.startswith("edgetext.cli")
    ]
    # `python -m edgetext` is the command line under another name.
    assert [line for line in wrong if line != "edgetext/__main__.py imports edgetext.cli"] == []


@pytest.mark.parametrize("floor", [name for name, (_, _, third) in FLOORS.items() if third is not None])
def test_light_floors_use_only_what_they_may(floor):
    allowed = FLOORS[floor][2]
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in files_of(floor)
        for top, name, _ in imports(path)
        if is_third_party(top) and top not in allowed
    ]
    assert wrong == []


@pytest.mark.parametrize("floor", LAZY)
def test_heavy_packages_are_imported_inside_functions(floor):
    wrong = [
        f"{path.relative_to(ROOT)} imports {name} when it is imported"
        for path in files_of(floor)
        for top, name, eager in imports(path)
        if eager and top in LAZY[floor]
    ]
    assert wrong == []


def test_commands_import_nothing_before_they_run():
    wrong = [
        f"{path.relative_to(ROOT)} imports {name} when it is imported"
        for path in sources(CLI)
        for top, name, eager in imports(path)
        if eager and top not in sys.stdlib_module_names | CLI_EAGER and not name.startswith("edgetext.cli")
    ]
    assert wrong == []


def test_nothing_reads_pickles_or_changes_the_path():
    forbidden = {"pickle", "dill", "marshal", "shelve", "joblib"}
    wrong = []
    for floor in FLOORS:
        for path in (*files_of(floor), *sources(CLI)):
            wrong += [f"{path}: {name}" for top, name, _ in imports(path) if top in forbidden]
            if "sys.path." in path.read_text(encoding="utf-8"):
                wrong.append(f"{path}: changes sys.path")
    assert wrong == []


def test_the_reader_of_imports_sees_what_it_should(tmp_path):
    path = tmp_path / "module.py"
    path.write_text(
        "import os\n"
        "from typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    import torch\n"
        "try:\n    import numpy.linalg\nexcept ImportError:\n    pass\n"
        "class C:\n    import json\n"
        "def f():\n    from onnxruntime import InferenceSession\n"
    )
    assert list(imports(path)) == [
        ("os", "os", True),
        ("typing", "typing", True),
        ("numpy", "numpy.linalg", True),
        ("json", "json", True),
        ("onnxruntime", "onnxruntime", False),
    ]
