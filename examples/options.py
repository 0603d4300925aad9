"""What the example scripts are asked on the command line: the method, and the training."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

import metafunc as mf

EstimatorName = Literal[
    "explicit", "first-order", "truncated", "binomial", "implicit", "finite-difference", "reptile"
]
SolverName = Literal["gradient-descent", "nesterov", "adam", "newton-cg"]


@dataclass(frozen=True)
class Method:
    """How tasks are learnt, and how the gradient comes through."""

    estimator: EstimatorName = "explicit"  # What makes the meta-gradients.
    order: int = 2  # Of binomial: the most factors in a chain; as many as inner steps is exact.
    rescale: bool = False  # Of binomial: the learning rate times order / steps in the expansion.
    window: int | None = None  # Of binomial: the last inner steps that are expanded; all if not given.
    depth: int = 1  # Of truncated: the last inner steps that are differentiated.
    cg_steps: int = 5  # Of implicit: steps of conjugate gradients.
    cg_damping: float = 0.0  # Of implicit: what is added to the diagonal; steadies it on nets with kinks.
    nu: float | None = None  # Of finite-difference: the step in the outer loss; its own choice if not given.
    curvature: Literal["exact", "differences"] = "exact"  # Hessian-vector products, or Hessian-free.
    solver: SolverName = "gradient-descent"  # What takes the inner steps.
    inner_steps: int = 5  # How many.
    test_steps: int | None = None  # How many when it counts; as many as in training if not given.
    inner_lr: float = 0.01  # Their learning rate, of nesterov 1 / smoothness; newton-cg finds its own.
    prox: float = 0.0  # The weight of the pull towards theta, which implicit and finite-difference need.

    def inner(self, problem: dict[str, Any], steps: int | None = None) -> mf.Inner:
        """The inner problem."""
        shared: dict[str, Any] = {**problem, "steps": steps or self.inner_steps, "prox": self.prox}
        if self.solver == "newton-cg":
            return mf.newton_cg(**shared)
        if self.solver == "nesterov":
            return mf.nesterov(**shared, smoothness=1 / self.inner_lr)
        solve = mf.gradient_descent if self.solver == "gradient-descent" else mf.adam
        return solve(**shared, lr=self.inner_lr)

    def test_inner(self, problem: dict[str, Any]) -> mf.Inner:
        """The inner problem when it counts."""
        return self.inner(problem, self.test_steps)

    def make_estimator(self) -> mf.Estimator:
        """The estimator."""
        products = mf.Exact() if self.curvature == "exact" else mf.CentralDifference()
        if self.estimator == "implicit":
            return mf.Implicit(mf.CG(max_steps=self.cg_steps, damping=self.cg_damping), products)
        if self.estimator == "binomial":
            return mf.Binomial(self.order, self.window, self.rescale, products)
        if self.estimator == "truncated":
            return mf.Truncated(self.depth, products)
        if self.estimator == "explicit":
            return mf.Explicit(curvature=products)
        if self.estimator == "finite-difference":
            return mf.FiniteDifference() if self.nu is None else mf.FiniteDifference(self.nu)
        return mf.FirstOrder() if self.estimator == "first-order" else mf.Reptile()


@dataclass(frozen=True)
class Training(Method):
    """How long, on what, and what is kept."""

    steps: int = 20_000  # Meta-steps. The same command with more of them goes on where a run has ended.
    batch: int = 4  # Tasks in a meta-step.
    lr: float = 1e-3  # Adam's learning rate.
    cosine: bool = False  # Let it fall to zero in the course of training.
    clip: float | None = None  # The largest norm of a meta-gradient.
    chunk: int | None = None  # Tasks that are run at once, where memory is short; all if not given.
    loop: bool = False  # Run task after task, which is the fastest for large images on a CPU.
    validate_every: int = 500  # Meta-steps between validations.
    validation_tasks: int = 200  # Tasks of a validation.
    patience: int | None = None  # End after so many validations without a new best.
    seed: int = 0  # Of the net and of every draw; on a CPU it fixes the outcome.
    device: str = "cpu"  # Such as cuda.
    amp: bool = False  # Mixed precision in bfloat16.
    folder: Path | None = None  # Where the run is kept; named after script, method and seed if not given.
    restart: bool = False  # Throw away the run that is in the folder.

    def meta_optimizer(self, net: nn.Module, loss_fn: Any, **metrics: Any) -> mf.MetaOptimizer:
        """Adam around the net, with the method that was asked for."""
        optimizer = torch.optim.Adam(net.parameters(), lr=self.lr)
        return mf.MetaOptimizer(
            net,
            loss_fn,
            optimizer,
            self.inner,
            self.make_estimator(),
            test_inner=self.test_inner,
            tasks=mf.Loop() if self.loop else mf.Vmap(chunk=self.chunk),
            scheduler=torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.steps)
            if self.cosine
            else None,
            clip=self.clip,
            metrics=metrics,
            autocast=torch.bfloat16 if self.amp else None,
        )

    def train(
        self, meta: mf.MetaOptimizer, tasks: Any, validation: Any, folder: Path, monitor: str = "accuracy"
    ) -> mf.training.Run:
        """`mf.training.train` with these options."""
        return mf.training.train(
            meta,
            tasks,
            steps=self.steps,
            batch=self.batch,
            folder=folder,
            validation=mf.training.Validation(
                validation,
                count=self.validation_tasks,
                every=self.validate_every,
                batch=self.chunk or 20,
                monitor=monitor,
                higher_is_better=monitor != "loss",
                patience=self.patience,
            ),
            seed=self.seed,
            settings=self.settings(),
            restart=self.restart,
        )

    def settings(self) -> dict[str, Any]:
        """What a run that goes on must have in common with what it was."""
        free = {"folder", "restart", "test_tasks", "device", "patience", "chunk", "loop"}
        free |= set() if self.cosine else {"steps"}
        return {name: value for name, value in asdict(self).items() if name not in free}
