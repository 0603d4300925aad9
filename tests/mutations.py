"""One-line mutations of the source, each of which the suite must catch: ``python tests/mutations.py [word ...]``.

Every mutation is made in a copy of the tree, and the tests named beside it are run there until the first failure. A
mutation that survives is a hole in the tests. They are numbered, and ``--first 57`` goes on at one of them.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
PATH, IMPLICIT = "tests/estimators/test_path_estimators.py", "tests/estimators/test_implicit.py"
DIFFERENCE, DIFFERENCED = (
    "tests/estimators/test_finite_difference.py",
    "tests/curvature/test_central_difference.py",
)
BATCH, LINEAR, ROOTS = "tests/test_hessian_batch.py", "tests/linear/", "tests/interop/test_torchopt.py"
MATRIX, ERRORS, META = "tests/test_composition.py", "tests/test_errors.py", "tests/test_metagrad.py"
FUNCTIONAL, OPTIMIZER = "tests/test_functional.py", "tests/test_meta_optimizer.py"
CHAIN = "tests/test_imperative.py"
CAPTURED, GENERATORS = "tests/test_captured.py", "tests/test_generators.py"
EPISODES = "tests/data/test_episodes.py"
MACHINE, HDF5, DRAWINGS = (
    f"tests/data/formats/test_{name}.py" for name in ("pickle_machine", "hdf5_files", "omniglot")
)
TRAIN, PICTURES = "tests/training/test_train.py", "tests/training/test_pictures.py"
RESUME, STATE = "tests/training/test_resume.py", "tests/training/test_state.py"
FOLDER, LOOP = "tests/training/test_folder.py", "tests/training/test_loop.py"
OUTER, BATCHING = "tests/test_outer.py", "tests/test_batching.py"


class Mutation(NamedTuple):
    file: str
    line: str
    becomes: str
    tests: str


MUTATIONS = [
    Mutation("solvers/gradient_descent.py", "tree.add(tree.scale(mu, velocity), slope)", "tree.sub(tree.scale(mu, velocity), slope)", PATH),
    Mutation("solvers/gradient_descent.py", "if nesterov else velocity", "if nesterov else slope", PATH),
    Mutation("estimators/explicit.py", "bar = more if bar is None else tree.merge(more, bar)", "bar = more", PATH),
    Mutation("estimators/explicit.py", "v = tree.merge(v, tree.index(v_stored, i))", "pass", f"{MATRIX} -k hessian_on_the_convex"),
    Mutation("estimators/explicit.py", "zip(reversed(steps), reversed(states), strict=True)", "zip(steps, states, strict=True)", PATH),
    Mutation("estimators/truncated.py", "in reversed(list(enumerate(self._steps()))):", "in reversed(list(enumerate(self._steps()))[1:]):", PATH),
    Mutation("estimators/truncated.py", "return self.depth == self.path.inner.steps", "return True", f"{MATRIX} -k hessian_on_the_convex"),
    Mutation("estimators/binomial.py", "here = range(self.order - l, self.window - l + 1)", "here = range(self.order - l + 1, self.window - l + 2)", PATH),
    Mutation("estimators/binomial.py", "return terms.flip(0).cumsum(0).flip(0)", "return terms.cumsum(0)", PATH),
    Mutation("estimators/binomial.py", "if l == self.order else tree.index(more, -1)", "if l == self.order else tree.index(more, 0)", PATH),
    Mutation("estimators/binomial.py", "tangent if l == 1 else still", "tangent", f"{MATRIX} -k test_jvp"),
    Mutation("estimators/binomial.py", "tree.scale(self.factor, tree.sub(back, u))", "tree.sub(back, u)", PATH),
    Mutation("estimators/first_order.py", "return False", "return True", f"{MATRIX} -k hessian_on_the_convex"),
    Mutation("estimators/implicit.py", "lambda x: None if x is None else -x, pull(w)[0]", "lambda x: x, pull(w)[0]", IMPLICIT),
    Mutation("estimators/implicit.py", "tree.neg(moved)", "moved", IMPLICIT),
    Mutation("estimators/implicit.py", "return System(system.transposed, system.operator, system.solver.transposed)", "return system", IMPLICIT),
    Mutation("estimators/finite_difference.py", "g + nu * u - s", "g + nu * u + s", DIFFERENCE),
    Mutation("estimators/finite_difference.py", "delta ** (1 / (order + 1))", "delta ** (1 / order)", DIFFERENCE),
    Mutation("estimators/finite_difference.py", "offsets = list(range((order or 1) + 1))", "offsets = list(range(2))", DIFFERENCE),
    Mutation("estimators/reptile.py", "tree.scale(1 / self.inner.steps,", "tree.scale(1.0,", PATH),
    Mutation("estimators/reptile.py", "def linear(self) -> bool:\n        return False", "def linear(self) -> bool:\n        return True", ERRORS),
    Mutation("curvature/central_difference.py", "(a - b) * (0.5 / delta)", "(a - b) / delta", DIFFERENCED),
    Mutation("curvature/central_difference.py", "for s in (delta, -delta)", "for s in (delta, 0.0 * delta)", DIFFERENCED),
    Mutation("curvature/central_difference.py", "return relative(away, tree.norm(w))", "return away", DIFFERENCED),
    Mutation("curvature/central_difference.py", "here = self._along(self.curved,", "here = self._along(self.objective,", BATCH),
    Mutation("curvature/curvature.py", "tree.add(moved, self.hessian(phi, rest)(full))", "moved", "tests/curvature/test_gauss_newton.py"),
    Mutation("curvature/curvature.py", "return (here, pull(w)[0]), {}", "return (here, pull(out[0])[0]), {}", "tests/curvature/test_gauss_newton.py"),
    Mutation("curvature/exact.py", "with sdpa_kernel(SDPBackend.MATH):", "with sdpa_kernel(SDPBackend.FLASH_ATTENTION):", "tests/curvature/test_exact.py"),
    Mutation("curvature/exact.py", "if refusal is None:", "if True:", "tests/curvature/test_exact.py"),
    Mutation("curvature/exact.py", "if inner.curved is not None:", "if False:", BATCH),
    Mutation("curvature/exact.py", "self.found = self._try(phi, args)", "return self._try(phi, args)", "tests/curvature/test_exact.py"),
    Mutation("curvature/gauss_newton.py", "return pull(bend(moved)[0])[0]", "return pull(moved)[0]", "tests/curvature/test_gauss_newton.py"),
    Mutation("curvature/gauss_newton.py", "tree.add(of_model(w), pull_rest(w)[0])", "of_model(w)", "tests/curvature/test_gauss_newton.py"),
    Mutation("hessian_batch.py", "args.data[count // 2 :] if second", "args.data[: count // 2] if second", BATCH),
    Mutation("inner.py", "torch.where(done, old, new)", "torch.where(done, new, old)", "tests/solvers/test_gradient_descent.py"),
    Mutation("inner.py", "if inner.early_exit and done is not None and autodiff.all_true(done):", "if False:", "tests/solvers/test_gradient_descent.py"),
    Mutation("inner.py", "tree.norm(inner.slope(inner.init(args), args))", "1 + tree.norm(inner.init(args))", "tests/test_check.py"),
    Mutation("autodiff.py", "for axis in reversed(mapped):", "for axis in mapped:", "tests/test_autodiff.py"),
    Mutation("autodiff.py", "return values is not None and all(values)", "return values is not None and any(values)", "tests/solvers/test_gradient_descent.py"),
    Mutation("options.py", "isinstance(value, int | np.integer) and not isinstance(value, bool)", "isinstance(value, int | np.integer)", "tests/test_options.py"),
    Mutation("options.py", "above = low < value if", "above = low <= value if", "tests/test_options.py"),
    Mutation("estimator.py", "if around or (", "if (", "tests/test_errors.py -k wrong_place"),
    Mutation("solvers/optimizer_state.py", "return updates, [*plan.pack(after, taken + 1), number + 1]", "return updates, [*plan.pack(after, taken + 1), number]", "tests/solvers/test_optimizer_loop.py -k not_all_tensors"),
    Mutation("solvers/optimizer_state.py", "else torch.float32", "else torch.bfloat16", "tests/solvers/test_optimizer_loop.py -k low_precision"),
    Mutation("solvers/optimizer_state.py", "with recalled(plan.at(taken).hidden):", "if True:", "tests/solvers/test_optimizer_loop.py -k not_all_tensors"),
    Mutation("solvers/hidden.py", "        _write(own)", "        pass", "tests/solvers/test_optimizer_loop.py -k stays_as"),
    Mutation("inner.py", "    own = tree.copied(args)", "    own = args", "tests/test_decorators.py"),
    Mutation("inner.py", "    return tree.copied(phi)", "    return phi", "tests/test_decorators.py"),
    Mutation("inner.py", "return torch.result_type(x, y) == y.dtype", "return True", "tests/test_settings.py"),
    Mutation("linear/solver.py", "matvec(w).clone(), b.clone()", "matvec(w), b", "tests/test_decorators.py -k linear"),
    Mutation("decorators.py", "own = tree.map(torch.clone, phi)", "own = phi", "tests/test_decorators.py -k step"),
    Mutation("decorators.py", "if not all(map(_equal, *outcomes)):", "if False:", "tests/test_decorators.py -k lost"),
    Mutation("rule.py", "raise errors.complex_leaf(self.rule.name)", "pass", "tests/test_rule.py -k complex"),
    Mutation("bayes/calibration.py", "outputs.detach().double()", "outputs.detach()", "tests/bayes/test_calibration.py"),
    Mutation("check.py", 'stats["series_error"] <= stats["first_order_error"] + slack', 'stats["series_error"] < stats["first_order_error"]', "tests/test_check.py -k in_its_range"),
    Mutation("spectrum.py", "torch.where(upward, -high, low), torch.where(upward, -low, high)", "low, high", "tests/test_spectrum.py -k below_zero"),
    Mutation("solvers/gradient_descent.py", "momentum = (root - 1) / (root + 1)", "momentum = (root - 1) / (root + 2)", "tests/solvers/test_gradient_descent.py"),
    Mutation("solvers/adam.py", "(a / c1) / (safe_sqrt(b / c2) + eps)", "a / (safe_sqrt(b / c2) + eps)", "tests/solvers/test_adam.py"),
    Mutation("solvers/adam.py", "torch.where(positive, x, 1.0).sqrt()", "x.sqrt()", "tests/solvers/test_adam.py"),
    Mutation("solvers/newton_cg.py", "p = torch.where(p @ flat < 0, p, -flat)", "p = p", "tests/solvers/test_newton_cg.py"),
    Mutation("solvers/newton_cg.py", "enough = there <= value + 1e-4 * t * slope + slack", "enough = there < torch.inf", "tests/solvers/test_newton_cg.py"),
    Mutation("solvers/newton_cg.py", "p = torch.where(done, torch.zeros_like(p), p)", "p = p", "tests/solvers/test_newton_cg.py"),
    Mutation("solvers/optimizer_loop.py", "if func in _ROOTS:", "if False:", "tests/solvers/test_optimizer_loop.py"),
    Mutation("solvers/optimizer_loop.py", "if func in _READS:", "if False:", "tests/solvers/test_optimizer_loop.py"),
    Mutation("solvers/optimizer_state.py", "state = plan.unpack([x + zero for x in carried], 0)", "state = plan.unpack(carried, 0)", "tests/solvers/test_optimizer_loop.py"),
    Mutation("solvers/optimizer_loop.py", "if not all(dependencies(update, ones)):", "if False:", "tests/solvers/test_optimizer_loop.py"),
    Mutation("solvers/problem.py", "return 0.5 * tree.dot(x, tree.scale(weight, x))", "return tree.dot(x, tree.scale(weight, x))", PATH),
    Mutation("solvers/problem.py", "and not self._learned(\"weight_decay\")", "", "tests/test_hyperparameters.py"),
    Mutation("spectrum.py", "q = _without(_unit(torch.where(ended, fresh, ahead)), space)", "q = _unit(ahead)", "tests/test_spectrum.py"),
    Mutation("spectrum.py", "root = None if lr is None else tree.map(lambda x: abs(x) ** 0.5, lr)", "root = lr", "tests/test_spectrum.py"),
    Mutation("check.py", "far = ~(stats[\"stationarity\"] <= limit)", "far = stats[\"stationarity\"] < 0", "tests/test_check.py"),
    Mutation("check.py", "outside = ~(stats[\"series_error\"] <= stats[\"first_order_error\"] + slack)", "outside = stats[\"series_error\"] < 0", "tests/test_check.py"),
    Mutation("decorated.py", "if d is None", "if False", "tests/estimators/test_torchopt_root.py"),
    Mutation("metagrad.py", "(guess, *data_and_query), size)", "((), *data_and_query), count)", "tests/test_check.py"),
    Mutation("estimators/finite_difference.py", "replace(self.inner, tolerance=0.0), tilted", "self.inner, tilted", "tests/solvers/test_gradient_descent.py"),
    Mutation("estimators/finite_difference.py", ".to(like.device, non_blocking=True)", ".to(like.device)", "tests/test_synchronization.py -k no_estimator"),
    Mutation("meta_optimizer.py", ".to(device, non_blocking=True)", ".to(device)", "tests/test_synchronization.py -k meta_optimizer"),
    Mutation("inner.py", "if inner.early_exit and done is not None", "if done is not None", "tests/test_synchronization.py -k finds_the_same"),
    Mutation("linear/cg.py", "            if self.early_exit and all_true(~active)", "            if all_true(~active)", "tests/test_synchronization.py -k no_estimator"),
    Mutation("linear/cg.py", "(self.early_exit and all_true(~handed))", "all_true(~handed)", "tests/test_synchronization.py -k no_estimator"),
    Mutation("estimators/finite_difference.py", "tilt = tree.map(lambda u, s: nu * u - s, v, shift)", "tilt = tree.map(lambda u, s: nu * u, v, shift)", "tests/solvers/test_newton_cg.py"),
    Mutation("interop/torchopt.py", "factor = (max_norm / (size + 1e-6)).clamp(max=1.0)", "factor = (max_norm / (size.detach() + 1e-6)).clamp(max=1.0)", "tests/interop/test_clip.py"),
    Mutation("interop/torchopt.py", "else _detach(x) for i, x", "else x for i, x", ROOTS),
    Mutation("interop/torchopt.py", "symmetric=linear.symmetric_only", "symmetric=True", ROOTS),
    Mutation("interop/torchopt.py", ".fill(_detach(tensors))", ".fill(tensors)", ROOTS),
    Mutation("interop/torchopt.py", "bound.apply_defaults()", "pass", ROOTS),
    Mutation("interop/torchopt.py", "_DEFAULT if solve is None else solve", "_DEFAULT", ROOTS),
    Mutation("linear/cg.py", "usable = curvature > gap.eps * gap.gain * pp", "usable = curvature > 0", LINEAR + "test_cg.py"),
    Mutation("linear/cg.py", "p = torch.where(active, z + (inner", "p = torch.where(active, z - (inner", LINEAR + "test_krylov.py"),
    Mutation("linear/cg.py", "ap = ap + self.damping * p", "ap = ap", LINEAR + "test_cg.py"),
    Mutation("linear/cg.py", "negative, active = negative | (active & ~usable), active & usable", "negative, active = negative, active & usable", LINEAR + "test_cg.py"),
    Mutation("linear/cg.py", "return torch.where(handed, other, x), stats", "return torch.where(handed, x, x), stats", LINEAR + "test_cg.py"),
    Mutation("linear/recursion.py", "return self.eps * self.gain * self.reach", "return 0 * self.eps * self.gain * self.reach", LINEAR + "test_recursion.py"),
    Mutation("linear/recursion.py", "size = peak * torch.where(usable, norm, torch.ones_like(norm))", "size = torch.ones_like(peak)", LINEAR + "test_solvers.py"),
    Mutation("linear/recursion.py", "(q @ ap - p @ aq).abs() > bound", "(q @ ap + p @ aq).abs() > bound", LINEAR + "test_cg.py"),
    Mutation("linear/minres.py", "w = az - delta * v - (gamma *", "w = az - delta * v + (gamma *", LINEAR + "test_krylov.py"),
    Mutation("linear/gmres.py", "w, h = w - v.T @ again, h + again", "w, h = w, h", LINEAR + "test_krylov.py"),
    Mutation("linear/gmres.py", "return replace(self, preconditioner=mirrored(self.preconditioner))", "return self", LINEAR + "test_preconditioner.py"),
    Mutation("linear/krylov.py", "-(self.null @ h) / safe(below, going)", "(self.null @ h) / safe(below, going)", LINEAR + "test_krylov.py"),
    Mutation("linear/normal_cg.py", "s = back(r) - self.damping * x", "s = back(r)", LINEAR + "test_krylov.py"),
    Mutation("linear/normal_cg.py", "z = precondition(precondition_back(s))", "z = precondition(precondition(s))", LINEAR + "test_krylov.py"),
    Mutation("linear/normal_cg.py", "return self.damping", "return 0.0", LINEAR + "test_system.py"),
    Mutation("linear/neumann.py", "x + self.scale * r)", "x + r)", LINEAR + "test_solvers.py"),
    Mutation("linear/direct.py", "regular = entries.amin() > b.numel() * torch.finfo(b.dtype).eps * entries.amax()", "regular = entries.amin() > 0", LINEAR + "test_direct.py"),
    Mutation("linear/preconditioner.py", "found.transposed if self.mirrored else found", "found", LINEAR + "test_preconditioner.py"),
    Mutation("linear/products.py", "if self.mirror is None:", "if True:", LINEAR + "test_products.py"),
    Mutation("linear/system.py", "self.solver.transposed)", "self.solver)", LINEAR + "test_preconditioner.py"),
    Mutation("linear/system.py", "weights.append(self._y(params, b, x))", "weights.append(tree.neg(self._y(params, b, x)))", LINEAR + "test_system.py"),
    Mutation("linear/system.py", "tree.add(x_dot, v), tree", "x_dot, tree", LINEAR + "test_system.py"),
    Mutation("linear/system.py", "[tree.neg(z)]", "[z]", LINEAR + "test_system.py"),
    Mutation("linear/system.py", "return not isinstance(self.solver, Foreign)", "return True", "tests/estimators/test_torchopt_root.py"),
    Mutation("autodiff.py", "return False  # a derivative is outside the innermost vmap", "return True", f"{MATRIX} -k mean_over_vmap"),
    Mutation("autodiff.py", "_set_fwd_grad_enabled(True)", "_set_fwd_grad_enabled(False)", f"{MATRIX} -k hessian_on_the_convex"),
    Mutation("autodiff.py", "return tuple(_functorch.unwrap_if_dead(x) for x in tensors)", "return tuple(tensors)", f"{MATRIX} -k outlives"),
    Mutation("rule.py", "return bar.sum(0) if dim is None", "return bar.mean(0) if dim is None", f"{MATRIX} -k mean_over_vmap"),
    Mutation("rule.py", "if torch.compiler.is_compiling():", "if False:", f"{MATRIX} -k torch_compile"),
    Mutation("rule.py", "return bar if rule.exact else", "return bar if True else", f"{MATRIX} -k hessian_on_the_convex"),
    Mutation("captured.py", "        if self._swap:", "        if False:", CAPTURED),
    Mutation("captured.py", "return Held(alive, self._watching), *(x.view_as(x) for x in alive)", "return Held(alive, self._watching), *alive", CAPTURED),
    Mutation("captured.py", "self._held.inside = False  # an operator may be", "self._held.inside = True  # an operator may be", CAPTURED),
    Mutation("captured.py", "if any(autodiff.depends(x) for x in tree.leaves(out)):", "if False:", f"{CAPTURED} -k shows_to_nobody"),
    Mutation("captured.py", "return autodiff.is_wrapped(x) or (recording and x.requires_grad)", "return (recording and x.requires_grad)", CAPTURED),
    Mutation("captured.py", "return autodiff.is_wrapped(x) or (recording and x.requires_grad)", "return autodiff.is_wrapped(x)", CAPTURED),
    Mutation("captured.py", "if strangers and (out is None or any(isinstance(x, Tensor) for x in tree.leaves(out))):", "if strangers:", f"{CAPTURED} -k asked_of"),
    Mutation("captured.py", "for x in autodiff.unwrappings(out):", "for x in ():", f"{CAPTURED} -k later_calls"),
    Mutation("captured.py", "raise Uncaptured(held)", "pass", f"{CAPTURED} -k same_place"),
    Mutation("captured.py", "self._refs, self._seen = [weakref.ref(x) for x in look(", "self._refs, self._seen = [(lambda x=x: x) for x in look(", f"{CAPTURED} -k kept_alive"),
    Mutation("inner.py", "with refusing(given):", "if True:", "tests/test_forward_mode.py -k captured"),
    Mutation("inner.py", "recipe=partial(made, *args, **kwargs)", "recipe=partial(made, *args)", "tests/test_pickling.py"),
    Mutation("path.py", "tape.before(k)", "tape.before(0)", GENERATORS),
    Mutation("generators.py", "if not tape.complete:", "if False:", f"{GENERATORS} -k late"),
    Mutation("generators.py", "    if snapshot.moved():\n        snapshot.restore()\n        raise error()", "    if snapshot.moved():\n        raise error()", f"{GENERATORS} -k snapshots"),
    Mutation("estimators/implicit.py", "with refusing_draws(args, lambda: errors.drawing_objective(self.label)):\n            r, pull", "if True:\n            r, pull", f"{GENERATORS} -k refuse"),
    Mutation("estimators/finite_difference.py", "with refusing_draws(args, lambda: errors.drawing_objective(self.name)):", "if True:", f"{GENERATORS} -k refuse"),
    Mutation("estimators/binomial.py", "if not out[2] and not self.unmappable:", "if not self.unmappable:", GENERATORS),
    Mutation("estimators/binomial.py", "tree.index(u, j)) for j, i in enumerate(here)", "tree.index(u, 0)) for j, i in enumerate(here)", "tests/estimators/test_binomial.py"),
    Mutation("philox.py", "low + 0x9E3779B9 & _MASK", "low + 0x9E3779B8 & _MASK", "tests/test_philox.py"),
    Mutation("philox.py", "_NUMBERS, _KEYS = 0, 1", "_NUMBERS, _KEYS = 0, 0", "tests/test_philox.py -k keys"),
    Mutation("philox.py", "place >> 32, zero + draw", "place >> 32, zero", FUNCTIONAL),
    Mutation("randomness.py", "axes = 1 if len(shape) == unbatched else 2", "axes = 2", f"{FUNCTIONAL} -k channels"),
    Mutation("randomness.py", "query.shape[-1] ** -0.5 if scale is None else scale", "query.shape[-1] ** -0.5", f"{FUNCTIONAL} -k attention"),
    Mutation("randomness.py", "if func is F.multi_head_attention_forward:", "if False:", f"{FUNCTIONAL} -k generators"),
    Mutation("randomness.py", 'if named.get("generator") is not None:', "if False:", f"{FUNCTIONAL} -k generators"),
    Mutation("functional.py", "        if snapshot.moved():", "        if False:", f"{FUNCTIONAL} -k generators"),
    Mutation("norms.py", "found[max(above, key=len)]", "found[min(above, key=len)]", f"{FUNCTIONAL} -k part"),
    Mutation("norms.py", "if func is F.batch_norm and _by_batch(*args, **(kwargs or {})):", "if func is F.batch_norm:", f"{FUNCTIONAL} -k part"),
    Mutation("metagrad.py", "if not all(i < len(direct) and direct[i] for i in error.leaves):", "if False:", META),
    Mutation("metagrad.py", "raise errors.outer_without_phi()", "pass", META),
    Mutation("outer_checks.py", "learned += [x for x in tree.leaves(args.hyper)", "learned += [x for x in ()", f"{OPTIMIZER} -k beside"),
    Mutation("autodiff.py", "return any(\"Jvp\" in str(level.key()) for level in _levels()[0])", "return False", "tests/test_forward_mode.py -k compiled"),
    Mutation("autodiff.py", '"ZeroTensors are immutable", "Nested forward mode AD"', '"ZeroTensors are immutable",', "tests/test_forward_mode.py -k every_way"),
    Mutation("autodiff.py", "return x.clone() if 0 in x.stride() and x.numel() > 1 else x", "return x", "tests/solvers/test_optimizer_loop.py -k forward"),
    Mutation("dependence.py", "if miss and feed)", "if False)", ERRORS),
    Mutation("inner.py", "if not isinstance(value, Tensor) or value.ndim != 0:", "if False:", ERRORS),
    Mutation("inner.py", "return self.inner.batchable", "return True", "tests/test_inner.py"),
    Mutation("metagrad.py", "lambda x: None if x is None else x / size, total", "lambda x: x, total", META),
    Mutation("metagrad.py", "grad = tree.merge(direct, through) if with_theta else through", "grad = through", META),
    Mutation("metagrad.py", "aux = tree.map(_alive, box[0])", "aux = box[0]", META),
    Mutation("norms.py", "norm.track_running_stats = False", "pass", FUNCTIONAL),
    Mutation("norms.py", "norm.training = False", "pass", FUNCTIONAL),
    Mutation("functional.py", "return self({**theta, **phi}, batch, key)", "return self({**phi, **theta}, batch, key)", FUNCTIONAL),
    Mutation("functional.py", "if written:", "if False:", FUNCTIONAL),
    Mutation("randomness.py", "numbers >= p, x / (1 - p)", "numbers >= p, x", FUNCTIONAL),
    Mutation("philox.py", "_halves(key.to(like.device))", "_halves(0 * key.to(like.device))", FUNCTIONAL),
    Mutation("philox.py", "zero + draw, zero + _NUMBERS", "zero, zero + _NUMBERS", FUNCTIONAL),
    Mutation("randomness.py", "self._draws += 1", "pass", FUNCTIONAL),
    Mutation("step_keys.py", "fold_in(key, count.detach())", "fold_in(key, 0 * count.detach())", FUNCTIONAL),
    Mutation("norms.py", "self.found.append((x.mean(axes), x.var(axes)))", "self.found.append((x.mean(axes), x.var(axes, unbiased=False)))", OPTIMIZER),
    Mutation("meta_optimizer.py", "slope if parameter.grad is None else parameter.grad + slope", "slope", OPTIMIZER),
    Mutation("meta_optimizer.py", "self._seed * 1_000_003 + self.steps", "self._seed * 1_000_003", OPTIMIZER),
    Mutation("outer.py", 'torch.set_rng_state(state["random"].cpu())', "pass", OPTIMIZER),
    Mutation("meta_optimizer.py", "problems[0] if test_inner is None else inner_problem(test_inner", "problems[0] if True else inner_problem(test_inner", OPTIMIZER),
    Mutation("batching.py", "leaf.parts[i]", "leaf.parts[0]", BATCHING),
    Mutation("batching.py", "if kind != kinds[0]:", "if False:", BATCHING),
    Mutation("batching.py", "torch.stack(leaves) if len({leaf.shape for leaf in leaves}) == 1 else list(leaves)", "torch.stack(leaves)", BATCHING),
    Mutation("batching.py", "if len(found) != 1 or None in found:", "if None in found:", BATCHING),
    Mutation("batching.py", "if found == {0}:", "if False:", BATCHING),
    Mutation("batching.py", 'hasattr(leaf, "__array__")', "False", BATCHING),
    Mutation("batching.py", "not _runs(fn, theta, tree.index(part, 0))", "False", f"{BATCHING} -k error_of_the_loss"),
    Mutation("outer.py", "if not (torch.isfinite(size) & torch.isfinite(found.loss)):", "if False:", OUTER),
    Mutation("outer.py", "        self._module.zero_grad()", "        pass", f"{OUTER} -k outside"),
    Mutation("outer.py", "if differing:", "if False:", OUTER),
    Mutation("outer.py", "if ours != theirs:", "if False:", OUTER),
    Mutation("outer.py", "if not _is_like(own, state):", "if False:", OUTER),
    Mutation("outer.py", "    loop.steps = steps", "    pass", f"{OUTER} -k copy"),
    Mutation("wrapped.py", "for kind in type(part).__mro__ if", "for kind in type(part).__mro__[:1] if", f"{OUTER} -k wrapped"),
    Mutation("outer_checks.py", 'if getattr(scheduler, "optimizer", optimizer) is not optimizer:', "if False:", OUTER),
    Mutation("copying.py", "if plain is not leaf or not leaf.is_leaf:", "if False:", "tests/test_copying.py"),
    Mutation("functional.py", "module.named_parameters(remove_duplicate=False)", "module.named_parameters()", f"{OUTER} -k tied"),
    Mutation("training/loop.py", 'not isfinite(row.get("loss", 0.0))', "False", TRAIN),
    Mutation("training/loop.py", "if not self.unsaved or not self.state.sound:", "if not self.unsaved:", TRAIN),
    Mutation("training/loop.py", 'if stopped != "interrupted":', "if False:", TRAIN),
    Mutation("training/loop.py", "self.state.stale >= patience", "self.state.stale > patience", TRAIN),
    Mutation("training/loop.py", "state.judged is None", "state.step == 0", RESUME),
    Mutation("training/loop.py", "            self.state.rows[name] = table.rows", "            self.state.rows[name] = 999", RESUME),
    Mutation("training/loop.py", "            if not last:", "            if True:", RESUME),
    Mutation("training/loop.py", "            self.state.show_best(folder)", "            pass", RESUME),
    Mutation("training/loop.py", "self.state.skipping > self.options.max_skips", "False", LOOP),
    Mutation("training/loop.py", "if kind not in self.told:", "if True:", LOOP),
    Mutation("training/train.py", "        if json.dumps(old, sort_keys=True) != json.dumps(settings, sort_keys=True):", "        if False:", TRAIN),
    Mutation("training/train.py", "            rehearse(learner, tasks, batch, seed, validation)", "            pass", FOLDER),
    Mutation("training/rehearsal.py", "        learner.load_state_dict(before)", "        pass", FOLDER),
    Mutation("training/folder.py", "if others:", "if False:", FOLDER),
    Mutation("training/folder.py", "set(self._files) <= set(NAMES)", "True", FOLDER),
    Mutation("training/lock.py", "if self._folder in _held:", "if False:", FOLDER),
    Mutation("training/lock.py", "fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)", "fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)", FOLDER),
    Mutation("training/state.py", 'if found["given"] != given:', "if False:", RESUME),
    Mutation("training/state.py", "        self.skipping = 0", "        pass", LOOP),
    Mutation("training/state.py", "self.stale = 0 if better", "self.stale = self.stale if better", TRAIN),
    Mutation("training/state.py", "self.best = checkpoint.copy(learner.state_dict())", "self.best = learner.state_dict()", TRAIN),
    Mutation("training/state.py", "odd = [name for name, right in _KINDS.items() if not right(found[name])]", "odd = []", STATE),
    Mutation("training/record.py", "_read_to_go_on(path)[:rows]", "_read_to_go_on(path)", RESUME),
    Mutation("training/record.py", "purge_step=last,", "purge_step=None,", TRAIN),
    Mutation("training/validation.py", "return isnan(old) and not isnan(new)", "return isnan(old)", RESUME),
    Mutation("training/validation.py", "return new > old if self.higher_is_better else new < old", "return new > old", TRAIN),
    Mutation("training/health.py", "if not residual <= HOPELESS:", "if residual > 9:", LOOP),
    Mutation("meta_optimizer.py", "self._outer(self._test_adapt(theta", "self._outer(self._adapt(theta", OPTIMIZER),
    Mutation("training/state.py", 'draws.set_state(found["draws"])', "pass", TRAIN),
    Mutation("training/state.py", "self.pending.clear()", "pass", TRAIN),
    Mutation("training/evaluate.py", "1.96 * spread / sqrt(len(values))", "1.96 * spread / len(values)", TRAIN),
    Mutation("training/evaluate.py", "min(len(found) * batch, count)", "len(found) * batch", TRAIN),
    Mutation("training/interrupt.py", "self.asked = True\n        self._restore()", "self.asked = True", TRAIN),
    Mutation("training/checkpoint.py", "torch.load(held, map_location=\"cpu\", weights_only=True)", "torch.load(held, map_location=\"cpu\", weights_only=False)", TRAIN),
    Mutation("training/pictures.py", "_GOOD if good else _BAD for good", "_BAD if good else _GOOD for good", PICTURES),
    Mutation("training/pictures.py", "i + reach + 1", "i + reach", PICTURES),
    Mutation("nets.py", "(side // 2**blocks) ** 2", "(side // 2**blocks)", "tests/test_nets.py"),
    Mutation("nets.py", "track_running_stats=False", "track_running_stats=True", "tests/test_nets.py"),
    Mutation("data/dataset.py", "argsort(stable=True)[foreign:]", "argsort(stable=True)", "tests/data/test_dataset.py"),
    Mutation("data/dataset.py", "sizes.cumsum(0) - sizes", "sizes.cumsum(0)", "tests/data/"),
    Mutation("data/episodes.py", "unit.masked_fill(beyond, -1.0)", "unit", EPISODES),
    Mutation("data/episodes.py", "held if self.device is None else torch.device(self.device)", "held", EPISODES),
    Mutation("data/augmentation.py", "torch.default_generator.manual_seed(int(seed))", "pass", EPISODES),
    Mutation("data/linear_regression.py", "spectrum.sqrt()", "spectrum", "tests/data/test_linear_regression.py"),
    Mutation("data/quadratics.py", "self.noise / self.dimension**0.5", "self.noise", "tests/data/test_quadratics.py"),
    Mutation("data/life_expectancy.py", 'lives[own["train"]]', "lives[own[self.split]]", "tests/data/test_life_expectancy.py"),
    Mutation("data/formats/pickle_names.py", "        if known not in self._calls and known != NDARRAY:", "        if False:", "tests/data/formats/test_unpickle.py"),
    Mutation("data/formats/pickle_names.py", "not isinstance(code, str) or code not in DTYPES", "not isinstance(code, str)", "tests/data/formats/test_unpickle.py"),
    Mutation("data/formats/omniglot.py", 'return 255 - decode(stream, str(file), "L", ("PNG",))', 'return decode(stream, str(file), "L", ("PNG",))', "tests/data/formats/test_find.py"),
    Mutation("data/formats/phase_pickles.py", 'and not name.endswith("_train_phase")', "", "tests/data/formats/test_pickles.py"),
    Mutation("data/cache.py", "shared=False", "shared=True", "tests/data/test_read.py"),
    Mutation("data/outline.py", "if name in home:", "if False:", "tests/data/test_report.py"),
    Mutation("data/download.py", "appends = response.status == 206", "appends = done > 0", "tests/data/test_download.py"),
    Mutation("outer.py", "float(\"inf\") if self.clip is None else self.clip", "float(\"inf\")", OPTIMIZER),
    Mutation("norms.py", "args = (args[0].float(), *args[1:])", "pass", "tests/test_mixed_precision.py"),
    Mutation("functional.py", "found if self.autocast is None else tree.map(self._turned_back, found)", "found", "tests/test_mixed_precision.py"),
    Mutation("bayes/gaussian.py", "torch.expm1(s) - s", "torch.expm1(s) + s", "tests/bayes/test_gaussian.py"),
    Mutation("bayes/noise.py", "torch.exp(0.5 * s) * z", "torch.exp(s) * z", "tests/bayes/"),
    Mutation("bayes/noise.py", "torch.cat([z, -z]", "torch.cat([z, z]", "tests/bayes/test_noise.py"),
    Mutation("bayes/fixed_point.py", "2 * slope / weight", "slope / weight", "tests/bayes/test_fixed_point.py"),
    Mutation("bayes/elbo.py", "return self.kl_weight * kl(phi, theta)", "return kl(phi, theta)", "tests/bayes/"),
    Mutation("bayes/predict.py", "- math.log(len(outputs))", "", "tests/bayes/test_predict.py"),
    Mutation("bayes/hyperprior.py", "torch.exp(-s)", "torch.exp(s)", "tests/bayes/test_hyperprior.py"),
    Mutation("bayes/learner.py", "result = self._meta_grad(theta, support, inside, (query, outside))", "result = self._meta_grad(theta, support, inside, (query, inside))", "tests/bayes/test_learner.py"),
    Mutation("optim/normalized.py", "torch.where(length == 0, 1.0, length)", "length", "tests/optim/"),
    Mutation("optim/clipped.py", ".clamp(max=1.0)", "", "tests/optim/"),
    Mutation("optim/smoothness_adaptive.py", '4 * group["smoothness"]', '2 * group["smoothness"]', "tests/optim/"),
    Mutation("optim/smoothness_adaptive.py", "norms.detach().mean()", "norms.detach().sum()", "tests/optim/"),
    Mutation("outer_checks.py", "if strangers:", "if False:", OPTIMIZER),
    Mutation("outer.py", "self.scheduler.load_state_dict", "self.scheduler.state_dict() or print", OPTIMIZER),
    Mutation("interop/learner.py", "p - r * g for p, r, g in steps", "p - r * g.detach() for p, r, g in steps", "tests/interop/test_learn2learn.py"),
    Mutation("interop/learner.py", "self._frozen and not (", "False and not (", "tests/interop/test_learn2learn.py -k frozen"),
    Mutation("interop/learner.py", "self.training = training", "self.train(training)", "tests/interop/test_learn2learn.py -k modes"),
    Mutation("interop/rebase.py", "x - y for x, y in pairs", "x for x, y in pairs", "tests/interop/test_torchopt_meta.py -k history"),
    Mutation("interop/torchopt_base.py", "return state if self._plain else detached(state)", "return state", "tests/interop/test_torchopt_meta.py -k moments"),
    Mutation("interop/torchopt_base.py", "x is y and x.is_leaf == leaf", "x is y", "tests/interop/test_torchopt_meta.py -k stop_gradient"),
    Mutation("interop/modules.py", "found.setdefault(id(value), (name, []))", "found.setdefault(id((part, key)), (name, []))", "tests/interop/test_torchopt_meta.py -k tied"),
    Mutation("interop/torchopt_state.py", "if id(x) not in copies:", "if True:", "tests/interop/test_torchopt_meta.py -k tied"),
    Mutation("imperative/chain.py", "            old.drop()", "            pass", CHAIN),
    Mutation("imperative/gate.py", "        if mark.switch.closed:", "        if False:", CHAIN),
    Mutation("imperative/gate.py", "if torch.is_grad_enabled() and mark.stage > 0:", "if False:", CHAIN),
    Mutation("imperative/gate.py", "if bar is None], mark.name)", "if False], mark.name)", "tests/interop/test_beside.py"),
    Mutation("imperative/gate.py", "if total is None and task == _graph_task():", "if task == _graph_task():", "tests/interop/test_beside.py -k shared"),
    Mutation("imperative/gate.py", "(None,) * len(cotangents) if ctx.mark.switch.closed else cotangents", "cotangents", "tests/interop/test_two_loops.py"),
    Mutation("imperative/reach.py", "        if mark_of(node) is not None:", "        if False:", "tests/interop/test_two_loops.py"),
    Mutation("imperative/reach.py", "            if aside:", "            if False:", "tests/interop/test_two_loops.py -k in_turn"),
    Mutation("imperative/reach.py", "is CheckpointFunction:", "is None and False:", "tests/interop/test_saved_tensors.py -k reentrant"),
    Mutation("imperative/reach.py", "return found if found.keys() <= beside.keys() else beside", "return beside", "tests/interop/test_beside.py -k only_adds"),
    Mutation("imperative/record.py", "        if _RECOMPUTED in str(error):", "        if False:", "tests/interop/test_saved_tensors.py -k checkpoint"),
    Mutation("imperative/chain.py", "self._miss(old.outside)", "pass", "tests/interop/test_beside.py -k asked_for"),
    Mutation("imperative/chain.py", "self._miss(reach(after.values(), set()))", "pass", "tests/interop/test_beside.py -k learned_rate"),
    Mutation("imperative/chain.py", "self.state if self.steps else None", "self.state", "tests/test_imperative.py -k state_to_start"),
    Mutation("imperative/rules.py", "v, outside = only_params(v) | back, merged(outside, more)", "outside = merged(outside, more)", "tests/interop/test_beside.py -k momentum"),
    Mutation("imperative/rules.py", "tail[window - length + 1], dict", "v, dict", CHAIN),
    Mutation("imperative/rules.py", "scaled(-1.0, more))", "more)", CHAIN),
    Mutation("bayes/learner.py", "self.inner if test_inner is None else inner_problem(test_inner", "self.inner if True else inner_problem(test_inner", "tests/bayes/test_learner.py"),
    Mutation("bayes/learner.py", "losses.mean() if self._outer_loss is None", "losses.mean() if True", "tests/bayes/test_learner.py -k outer_loss"),
    Mutation("bayes/learner.py", "(self._seed * 1_000_003 + self.steps)", "(self._seed * 1_000_003)", "tests/bayes/test_learner.py"),
    Mutation("bayes/learner.py", "return (), self._answers(self._test_adapt(theta, support, inside), *query)[0]", "return (), self._answers(theta, *query)[0]", "tests/bayes/test_learner.py"),
    Mutation("data/tasks.py", "min(batch, count - start)", "batch", "tests/bayes/test_answers.py"),
    Mutation("bayes/calibration.py", "ends.diff(dim=0)[0] / 2", "ends.diff(dim=0)[0]", "tests/bayes/test_calibration.py"),
    Mutation("bayes/calibration.py", "[0.025, 0.975]", "[0.05, 0.95]", "tests/bayes/test_calibration.py"),
    Mutation("memory.py", "held += change", "held = change", "tests/test_memory.py"),
    Mutation("outer.py", "self._module.load_state_dict(state", "(lambda state: None)(state", OPTIMIZER),
    Mutation("bounds.py", "kept = min(length, last)", "kept = length", "tests/test_bounds.py"),
    Mutation("bounds.py", "range(length + 1, steps - last + 1)", "range(length + 2, steps - last + 1)", "tests/test_bounds.py"),
    Mutation("data/files.py", "        settle(partial, path)\n", "        partial.replace(path)\n", "tests/data/test_files.py"),
    Mutation("data/files.py", "    sync(partial)\n", "", "tests/data/test_files.py"),
    Mutation("data/cache.py", "            sync(file)\n", "            pass\n", "tests/data/test_cache.py"),
    Mutation("data/cache.py", "        except ValueError:  # classes", "        except KeyError:  # classes", "tests/data/test_cache.py"),
    Mutation("data/formats/archive.py", "if member.flag_bits & 1:", "if False:", DRAWINGS),
    Mutation("data/formats/archive.py", "0 <= size <= FLOOR + RATIO * stored", "True", DRAWINGS),
    Mutation("data/formats/pixels.py", "pillow.open(stream, formats=formats)", "pillow.open(stream)", "tests/data/formats/test_pixels.py"),
    Mutation("data/formats/pixels.py", "image.width * image.height > PIXELS", "False", "tests/data/formats/test_pixels.py"),
    Mutation("data/formats/hdf5_files.py", "links.get_info(key).type != h5py.h5l.TYPE_HARD", "False", HDF5),
    Mutation("data/formats/hdf5_files.py", "plan.get_layout() == h5py.h5d.VIRTUAL or ", "", HDF5),
    Mutation("data/formats/hdf5_files.py", " or plan.get_external_count()", "", HDF5),
    Mutation("data/formats/hdf5_files.py", "map(max, array.shape, array.chunks or array.shape)", "array.shape", HDF5),
    Mutation("data/formats/packed_omniglot.py", "prod(shape) * dtype.itemsize != len(data) - stream.tell()", "False", DRAWINGS),
    Mutation("data/formats/pickle_names.py", "    if needed != len(data):", "    if needed > len(data):", MACHINE),
    Mutation("data/formats/pickle_names.py", "len(sides) > AXES or ", "", MACHINE),
    Mutation("data/formats/pickle_names.py", "        self._spare -= len(data)\n", "", MACHINE),
    Mutation("data/formats/pickle_names.py", " or rest[:5] != [None, None, None, -1, -1]", "", MACHINE),
    Mutation("data/formats/pickle_names.py", "if isinstance(value, Pending | Name):", "if isinstance(value, Pending):", MACHINE),
    Mutation("data/formats/pickle_machine.py", "if type(pending) is not Pending:", "if False:", MACHINE),
    Mutation("data/formats/pickle_machine.py", "            if self._memo[key] is pending:", "            if True:", MACHINE),
    Mutation("data/formats/pickle_stream.py", "0 <= count <= self._size - self._file.tell()", "0 <= count", MACHINE),
    Mutation("data/formats/csv_files.py", "            if name in there:\n", "            if True:\n", "tests/data/formats/test_csv_files.py"),
]  # fmt: skip


def caught(mutation: Mutation) -> bool:
    """Whether some named test fails on the mutated copy."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for part in ("metafunc", "tests"):
            shutil.copytree(ROOT / part, copy / part, ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("pyproject.toml", "README.md"):
            shutil.copy(ROOT / name, copy)
        (copy / "metafunc" / mutation.file).write_text(mutated(mutation), encoding="utf-8")
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


def misfits(mutation: Mutation) -> Iterator[str]:
    """Why the mutation is not one of the source and the tests as they are."""
    file, (tests, _, words) = ROOT / "metafunc" / mutation.file, mutation.tests.partition(" -k ")
    if not file.is_file():
        yield "there is no such file"
    elif (found := file.read_text(encoding="utf-8").count(mutation.line)) != 1:
        yield f"the file has the line {found} times"
    elif mutation.line == mutation.becomes:
        yield "it changes nothing"
    else:
        try:
            compile(mutated(mutation), mutation.file, "exec")
        except SyntaxError as error:
            yield f"it does not compile: {error}"
    if not (ROOT / tests).exists():
        yield f"there is no {tests}"
    elif words and not any(words in name for name in _names(ROOT / tests)):
        yield f"no test of {tests} has {words!r} in its name"


def mutated(mutation: Mutation) -> str:
    """The source of the file with the mutation."""
    source = (ROOT / "metafunc" / mutation.file).read_text(encoding="utf-8")
    return source.replace(mutation.line, mutation.becomes)


def _names(tests: Path) -> list[str]:
    files = tests.rglob("test_*.py") if tests.is_dir() else [tests]
    return re.findall(r"def (test_\w+)", "".join(file.read_text(encoding="utf-8") for file in files))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("words", nargs="*", help="run the mutations with all of these in their file and line")
    parser.add_argument("--first", type=int, default=1, help="leave out those before this number")
    options = parser.parse_args()
    complaints = [f"{m.file} | {m.line!r}: {why}" for m in MUTATIONS for why in misfits(m)]
    if complaints:
        raise SystemExit("\n".join(["bring the list up to date:", *complaints]))
    chosen = [
        (number, m)
        for number, m in enumerate(MUTATIONS, 1)
        if number >= options.first and all(word in f"{m.file} {m.line}" for word in options.words)
    ]
    survivors = 0
    for number, mutation in chosen:
        found = caught(mutation)
        survivors += not found
        line = mutation.line.splitlines()[-1].strip()
        print(f"{number:3} {'caught  ' if found else 'SURVIVED'} {mutation.file} | {line}", flush=True)
    print(f"{len(chosen) - survivors} of {len(chosen)} mutations caught")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
