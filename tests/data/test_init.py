import ast
import sys
from pathlib import Path

import metafunc.data

FOLDER = Path(metafunc.data.__file__).parent


def test_public_names_are_there_and_nothing_else_is():
    assert sorted(metafunc.data.__all__) == metafunc.data.__all__
    for name in metafunc.data.__all__:
        assert getattr(metafunc.data, name).__module__.startswith("metafunc.data.")


def imported(file: Path) -> set[str]:
    """The modules that a file imports: metafunc's by their full names, others by their first."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module or "")
    return {name if name.startswith("metafunc") else name.split(".")[0] for name in found}


def test_loading_and_sampling_need_torch_and_numpy_alone():
    # Of plotly and the like this asks nothing: what they are for imports them inside its functions.
    core = "dataset dataset_checks episodes augmentation glyphs sinusoid linear_regression quadratics chance tasks"
    for name in core.split():
        found = imported(FOLDER / f"{name}.py")
        own = {"metafunc", "metafunc.options", *(f"metafunc.data.{n}" for n in core.split())}
        assert found <= set(sys.stdlib_module_names) | {"torch", "numpy"} | own


def test_the_generator_imports_matplotlib_when_it_runs():
    for file in (FOLDER / "glyphs_generate").glob("*.py"):
        others = {name for name in imported(file) if not name.startswith("metafunc.data.glyphs_generate")}
        assert others <= set(sys.stdlib_module_names) | {"numpy"}
