"""One-line mutations of the source, each of which the suite must catch: ``python tests/mutations.py [filter]``.

Every mutation is made in a copy of the tree, and the tests named beside it are run there until the first failure. A
mutation that survives is a hole in the tests.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
PATH, IMPLICIT = "tests/estimators/test_path_estimators.py", "tests/estimators/test_implicit.py"
DIFFERENCE, SOLVERS = "tests/estimators/test_finite_difference.py", "tests/linear/test_solvers.py"
MATRIX, ERRORS, META = "tests/test_composition.py", "tests/test_errors.py", "tests/test_metagrad.py"


class Mutation(NamedTuple):
    file: str
    line: str
    becomes: str
    tests: str


MUTATIONS = [
    Mutation("solvers/gradient_descent.py", "tree.add(tree.scale(mu, velocity), slope)", "tree.sub(tree.scale(mu, velocity), slope)", PATH),
    Mutation("solvers/gradient_descent.py", "return value + 0.5 * tree.dot", "return value + 1.0 * tree.dot", PATH),
    Mutation("solvers/gradient_descent.py", "if nesterov else velocity", "if nesterov else slope", PATH),
    Mutation("estimators/explicit.py", "bar = more if bar is None else tree.merge(more, bar)", "bar = more", PATH),
    Mutation("estimators/explicit.py", "v = tree.merge(v, tree.index(v_stored, i))", "pass", f"{MATRIX} -k hessian_on_the_convex"),
    Mutation("estimators/explicit.py", "for state in reversed(states):", "for state in states:", PATH),
    Mutation("estimators/truncated.py", "for i in reversed(range(self.depth)):", "for i in reversed(range(1, self.depth)):", PATH),
    Mutation("estimators/truncated.py", "return self.depth == self.path.inner.steps", "return True", f"{MATRIX} -k hessian_on_the_convex"),
    Mutation("estimators/binomial.py", "here = slice(self.order - l, self.window - l + 1)", "here = slice(self.order - l + 1, self.window - l + 2)", PATH),
    Mutation("estimators/binomial.py", "return terms.flip(0).cumsum(0).flip(0)", "return terms.cumsum(0)", PATH),
    Mutation("estimators/binomial.py", "if l == self.order else tree.index(more, -1)", "if l == self.order else tree.index(more, 0)", PATH),
    Mutation("estimators/binomial.py", "tangent if l == 1 else still", "tangent", f"{MATRIX} -k test_jvp"),
    Mutation("estimators/binomial.py", "tree.scale(self.factor, tree.sub(back, u))", "tree.sub(back, u)", PATH),
    Mutation("estimators/first_order.py", "return False", "return True", f"{MATRIX} -k hessian_on_the_convex"),
    Mutation("estimators/implicit.py", "lambda x: None if x is None else -x, pull(w)[0]", "lambda x: x, pull(w)[0]", IMPLICIT),
    Mutation("estimators/implicit.py", "tree.neg(moved)", "moved", IMPLICIT),
    Mutation("estimators/implicit.py", "return System(system.transposed, system.operator, system.solver)", "return system", IMPLICIT),
    Mutation("estimators/finite_difference.py", "g + nu * u - s", "g + nu * u + s", DIFFERENCE),
    Mutation("estimators/finite_difference.py", "delta ** (1 / (order + 1))", "delta ** (1 / order)", DIFFERENCE),
    Mutation("estimators/finite_difference.py", "offsets = list(range((order or 1) + 1))", "offsets = list(range(2))", DIFFERENCE),
    Mutation("estimators/reptile.py", "tree.scale(1 / self.inner.steps,", "tree.scale(1.0,", PATH),
    Mutation("estimators/reptile.py", "def linear(self) -> bool:\n        return False", "def linear(self) -> bool:\n        return True", ERRORS),
    Mutation("curvature.py", "half = 0.5 / delta", "half = 1.0 / delta", PATH),
    Mutation("curvature.py", "for s in (delta, -delta)", "for s in (delta, 0.0 * delta)", PATH),
    Mutation("linear/cg.py", "active = active & (curvature > 0) & torch.isfinite(curvature)", "active = active & torch.isfinite(curvature)", SOLVERS),
    Mutation("linear/cg.py", "torch.where(active, r + beta * p, p)", "torch.where(active, r - beta * p, p)", SOLVERS),
    Mutation("linear/cg.py", "ap = matvec(p) + self.damping * p", "ap = matvec(p)", SOLVERS),
    Mutation("linear/cg.py", "negative = negative | (active & (curvature <= 0))", "negative = negative", SOLVERS),
    Mutation("linear/neumann.py", "x = x + self.scale * r", "x = x + r", SOLVERS),
    Mutation("linear/direct.py", "solve_ex(columns.T, b)", "solve_ex(columns, b)", SOLVERS),
    Mutation("linear/system.py", "(_negative(pull(z)[0]), z)", "(pull(z)[0], z)", SOLVERS),
    Mutation("linear/system.py", "tree.sub(b_dot, moved)", "tree.add(b_dot, moved)", SOLVERS),
    Mutation("autodiff.py", "return False  # a derivative is outside the innermost vmap", "return True", f"{MATRIX} -k mean_over_vmap"),
    Mutation("autodiff.py", "_set_fwd_grad_enabled(True)", "_set_fwd_grad_enabled(False)", f"{MATRIX} -k hessian_on_the_convex"),
    Mutation("autodiff.py", "return tuple(_functorch.unwrap_if_dead(x) for x in tensors)", "return tuple(tensors)", f"{MATRIX} -k outlives"),
    Mutation("rule.py", "return bar.sum(0) if dim is None", "return bar.mean(0) if dim is None", f"{MATRIX} -k mean_over_vmap"),
    Mutation("rule.py", "if torch.compiler.is_compiling():", "if False:", f"{MATRIX} -k torch_compile"),
    Mutation("rule.py", "return bar if rule.exact else", "return bar if True else", f"{MATRIX} -k hessian_on_the_convex"),
    Mutation("dependence.py", "if miss and feed:", "if False:", ERRORS),
    Mutation("dependence.py", "if is_differentiated(value):", "if False:", ERRORS),
    Mutation("inner.py", "if not isinstance(value, Tensor) or value.ndim != 0:", "if False:", ERRORS),
    Mutation("inner.py", "return self.inner.solve is None", "return True", "tests/test_inner.py"),
    Mutation("metagrad.py", "lambda x: None if x is None else x / count, total", "lambda x: x, total", META),
    Mutation("metagrad.py", "grad = tree.merge(direct, through) if with_theta else through", "grad = through", META),
]  # fmt: skip


def caught(mutation: Mutation) -> bool:
    """Whether some named test fails on the mutated copy."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for part in ("metafunc", "tests"):
            shutil.copytree(ROOT / part, copy / part, ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("pyproject.toml", "README.md"):
            shutil.copy(ROOT / name, copy)
        file = copy / "metafunc" / mutation.file
        source = file.read_text()
        if mutation.line not in source:
            raise SystemExit(f"{mutation.file} has no line {mutation.line!r}: bring the list up to date")
        file.write_text(source.replace(mutation.line, mutation.becomes))
        tests, *chosen = mutation.tests.split(" -k ")
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", tests]
        command += [f"-k={chosen[0]}"] if chosen else []
        environment = os.environ | {
            "PYTHONPATH": str(copy),
            "OMP_NUM_THREADS": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        result = subprocess.run(
            command, check=False, cwd=copy, env=environment, capture_output=True, text=True
        )
        if result.returncode not in (0, 1):
            raise SystemExit(f"pytest could not run for {mutation}:\n{result.stdout[-2000:]}")
        return result.returncode == 1


def main() -> int:
    chosen = [m for m in MUTATIONS if all(word in f"{m.file} {m.line}" for word in sys.argv[1:])]
    survivors = []
    for mutation in chosen:
        found = caught(mutation)
        survivors += [] if found else [mutation]
        print(
            "caught  " if found else "SURVIVED",
            mutation.file,
            "|",
            mutation.line.splitlines()[-1].strip(),
            flush=True,
        )
    print(f"{len(chosen) - len(survivors)} of {len(chosen)} mutations caught")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
