"""Imports run one way, and the core needs torch and numpy alone."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "metafunc"

ORDER = """
    tree errors plug philox < options < autodiff memory wrapped < rule generators < captured dependence randomness < inner < hessian_batch step_keys settings < decorators < curvature < path
    < linear < solvers spectrum decorated < estimator < estimators < imperative batching < metagrad < norms compare data nets bounds
    < functional outer_checks copying < outer < meta_optimizer interop check < training bayes optim < __main__
"""
"""What stands further left is imported by what stands further right, never the other way, and never by what stands
between the same signs. A new module has to be given a place here."""

RANK = {unit: rank for rank, layer in enumerate(ORDER.split("<")) for unit in layer.split()}
NEEDED = {"torch", "numpy"}
OPTIONAL = (
    "torchopt", "higher", "matplotlib", "rich", "scipy", "PIL", "tyro", "fontTools", "h5py", "plotly", "pandas",
    "tensorboard", "torchmetrics", "kornia",
)  # fmt: skip
OF_DATA = {"data", "tree", "errors", "plug", "options"}


@dataclass(frozen=True)
class Import:
    target: str
    line: int
    on_load: bool
    """Whether it runs when the module is imported, not only when a function of it is called."""


def modules(package: Path) -> dict[str, Path]:
    """The modules of a package by their dotted names; a package has the name of its folder."""
    found: dict[str, Path] = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(name: str, path: Path, known: set[str]) -> Iterator[Import]:
    """Every import in a file, wherever it stands: by the module's full name, or ``module.name`` from outside."""
    source = ast.parse(path.read_text(encoding="utf-8"))
    on_load = set(_on_load(source))
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(source):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, node.lineno, node in on_load)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                full = f"{base}.{alias.name}"
                ours = base.split(".")[0] == name.split(".")[0]
                yield Import(base if ours and full not in known else full, node.lineno, node in on_load)
        elif isinstance(node, ast.Attribute) and node.attr == "_pytree":
            yield Import("torch.utils._pytree", node.lineno, node in on_load)


def _on_load(node: ast.AST) -> Iterator[ast.AST]:
    yield node
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
        return
    if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
        return
    for child in ast.iter_child_nodes(node):
        yield from _on_load(child)


def unit(name: str) -> str:
    """The file or folder of the package that a module belongs to."""
    return name.split(".")[1]


def problems(package: Path) -> list[str]:
    """What is wrong with the imports of the package in this folder, a line each."""
    found = modules(package)
    top = package.name
    wrong: list[str] = []
    graph: dict[str, set[str]] = {}
    for name, path in found.items():
        if name != top and unit(name) not in RANK:
            wrong.append(f"{name} has no place in the order of imports")
            continue
        graph[name] = set()
        for an in imports(name, path, set(found)):
            if an.target == top or an.target.startswith(f"{top}."):
                graph[name].add(an.target)
                complaint = _inside(name, an.target, top)
            else:
                complaint = _outside(name, an, top)
            if complaint:
                wrong.append(f"{path.relative_to(package.parent)}:{an.line}: {name} {complaint}")
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        wrong.append("a cycle: " + " < ".join(error.args[1]))
    return wrong


def _inside(name: str, target: str, top: str) -> str | None:
    if name == top:
        return None
    if target == top:
        return "imports the public names, not the module that has them"
    here, there = unit(name), unit(target)
    if here == there:
        siblings = here == "estimators" and name != f"{top}.estimators"
        return f"imports {target}: estimators do not know of each other" if siblings else None
    if here == "data" and there not in OF_DATA:
        return f"imports {target}: data stands alone"
    if there not in RANK or RANK[there] >= RANK[here]:
        return f"imports {target}, which does not come before it"
    return None


def _outside(name: str, an: Import, top: str) -> str | None:
    if "_pytree" in an.target.split(".") and name != f"{top}.tree":
        return "uses torch's private pytree: only tree.py does"
    root = an.target.split(".")[0]
    if root in NEEDED or root in sys.stdlib_module_names:
        return None
    if an.on_load:
        return f"imports {an.target}: the package loads torch and numpy alone; import it where it is used"
    return None


def loaded(package: Path, *others: str) -> list[str]:
    """Which optional packages ``import metafunc`` and other modules load, in an interpreter of its own."""
    code = (
        f"import sys, {', '.join(['metafunc', *others])}\nprint(metafunc.__file__, *sys.modules, sep='\\n')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=package.parent,
        capture_output=True,
        text=True,
        check=True,
    )
    where, *names = done.stdout.splitlines()
    assert Path(where).parent == package
    return [name for name in OPTIONAL if name in names]


def test_imports_run_one_way() -> None:
    assert problems(PACKAGE) == []


def test_importing_the_package_loads_nothing_optional() -> None:
    assert loaded(PACKAGE, "metafunc.interop.torchopt", "metafunc.interop.higher") == []


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    ignored = shutil.ignore_patterns("__pycache__", "*.npz")
    return Path(shutil.copytree(PACKAGE, tmp_path.resolve() / "metafunc", ignore=ignored))


def add(file: Path, line: str) -> None:
    with file.open("a", encoding="utf-8") as stream:
        stream.write(f"\n{line}\n")


BAD = {
    "to the right": ("tree.py", "from metafunc.autodiff import vjp", "which does not come before it"),
    "to the right, by from": ("tree.py", "from metafunc import autodiff", "imports metafunc.autodiff"),
    "to the right, relative": (
        "linear/cg.py",
        "from ..estimator import Adapt",
        "imports metafunc.estimator,",
    ),
    "to the right, in a function": (
        "inner.py",
        "def f():\n    import metafunc.metagrad",
        "metafunc.metagrad",
    ),
    "in one layer": ("errors.py", "import metafunc.tree", "which does not come before it"),
    "of nothing": ("metagrad.py", "import metafunc.nothing", "which does not come before it"),
    "of public names": ("metagrad.py", "from metafunc import CG", "imports the public names"),
    "of an estimator": ("estimators/reptile.py", "from . import explicit", "do not know of each other"),
    "of the estimators": ("estimators/reptile.py", "from metafunc.estimators import Explicit", "do not know"),
    "by data": ("data/tasks.py", "from metafunc.inner import Inner", "data stands alone"),
    "of pytree": ("rule.py", "import torch.utils._pytree as t", "torch's private pytree"),
    "of pytree, by from": ("rule.py", "from torch.utils import _pytree", "torch's private pytree"),
    "of a name in pytree": ("rule.py", "from torch.utils._pytree import tree_map", "torch's private pytree"),
    "use of pytree": ("rule.py", "torch.utils._pytree.tree_map", "torch's private pytree"),
    "of torchopt": ("linear/cg.py", "import torchopt.linear_solve", "imports torchopt.linear_solve"),
    "of higher, if it is there": (
        "rule.py",
        "try:\n    import higher\nexcept ImportError: ...",
        "imports higher",
    ),
    "of rich, in a class": ("compare.py", "class A:\n    from rich import print", "imports rich.print"),
    "in a new module": ("novel.py", "import torch", "metafunc.novel has no place"),
    "in a circle": ("linear/solver.py", "from metafunc.linear.cg import CG", "a cycle: "),
}


@pytest.mark.parametrize(("file", "line", "complaint"), BAD.values(), ids=BAD)
def test_a_bad_import_is_found(copy: Path, file: str, line: str, complaint: str) -> None:
    add(copy / file, line)
    assert complaint in "\n".join(problems(copy))


@pytest.mark.parametrize(
    "line",
    [
        "def f():\n    import torchopt",
        "if TYPE_CHECKING:\n    import torchopt",
        "from metafunc import errors, tree",
    ],
)
def test_a_good_import_is_not(copy: Path, line: str) -> None:
    add(copy / "metagrad.py", line)
    assert problems(copy) == []


def test_an_optional_package_is_seen_when_it_is_loaded(tmp_path: Path) -> None:
    """In a package of that name with nothing else in it, for the whole one takes seconds to import."""
    (package := tmp_path.resolve() / "metafunc").mkdir()
    add(package / "__init__.py", "__import__('scipy')")
    assert loaded(package) == ["scipy"]
