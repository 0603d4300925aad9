"""An inner loop that is no loop of tensors at all: SciPy fits the classifier of each task, PyTorch learns the features.

    python examples/custom_inner_loop.py
    python examples/custom_inner_loop.py --shots 5 --penalty 0.1

For a task, a linear classifier is fitted to the features of the support set by SciPy's L-BFGS, to the end. The features
come from a net that is shared by all tasks; what it should be follows from the classifiers' losses on the query sets,
through SciPy, by the implicit function theorem: `@mf.minimizes(objective)` says what the function below it minimises,
and that is all that `mf.Implicit` has to know. (Classifiers solved to the end on learned features: MetaOptNet's idea.)
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
import tyro
from rich.progress import track
from scipy.optimize import minimize
from torch import Tensor
from torch.func import functional_call

import metafunc as mf

Params = dict[str, Tensor]


@dataclass(frozen=True)
class Options:
    """Learn features for classifiers that SciPy fits."""

    data: Path | None = None  # Omniglot in any form of docs/data.md; letters that ship if not given.
    ways: int = 5  # Letters in a task.
    shots: int = 1  # Drawings of each to learn it from.
    penalty: float = 0.01  # The weight of the classifier's squared norm; without one there is no minimum.
    width: int = 16  # Channels of the net, and the number of features.
    steps: int = 300  # Meta-steps.
    batch: int = 8  # Tasks in a meta-step.
    lr: float = 3e-3  # Adam's learning rate.
    test_tasks: int = 400  # Tasks of the test, before and after.
    cg_steps: int = 20  # Steps of conjugate gradients for the implicit gradient.
    seed: int = 0  # Of the net and of every draw.


def main(options: Options) -> None:
    torch.manual_seed(options.seed)
    letters = mf.data.glyphs() if options.data is None else mf.data.read(options.data, size=28)
    few = (options.ways, options.shots)
    training = mf.data.Episodes(letters.split("train"), *few, queries=5, rotations=True)
    test = mf.data.Episodes(letters.split("test"), *few, queries=15)
    net = mf.nets.conv4(options.width, channels=1, width=options.width, side=28, shrink="stride")
    theta = {name: p.detach().clone() for name, p in net.named_parameters()}

    def loss(phi: Params, theta: Params, batch: tuple[Tensor, Tensor]) -> Tensor:
        features = functional_call(net, theta, (batch[0],))
        return F.cross_entropy(features @ phi["weight"] + phi["bias"], batch[1])

    def objective(phi: Params, theta: Params, support: tuple[Tensor, Tensor]) -> Tensor:
        return loss(phi, theta, support) + options.penalty * (
            phi["weight"].square().sum() + phi["bias"].square().sum()
        )

    def empty(theta: Params) -> Params:  # what a solution looks like
        return {"weight": torch.zeros(options.width, options.ways), "bias": torch.zeros(options.ways)}

    @mf.Implicit(mf.CG(max_steps=options.cg_steps))
    @mf.minimizes(objective, init=empty)
    def adapt(theta: Params, support: tuple[Tensor, Tensor]) -> Params:
        features, labels = functional_call(net, theta, (support[0],)).double(), support[1]
        shape = (options.width + 1, options.ways)

        def value_and_slope(flat: object) -> tuple[float, object]:
            weights = torch.as_tensor(flat).reshape(shape).requires_grad_()
            with torch.enable_grad():
                logits = features @ weights[:-1] + weights[-1]
                value = F.cross_entropy(logits, labels) + options.penalty * weights.square().sum()
            value.backward()
            return value.item(), weights.grad.flatten().numpy()

        found = minimize(value_and_slope, torch.zeros(shape).double().flatten(), jac=True, method="L-BFGS-B")
        weights = torch.as_tensor(found.x).reshape(shape).float()
        return {"weight": weights[:-1], "bias": weights[-1]}

    def outer(phi: Params, theta: Params, query: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        answers = (functional_call(net, theta, (query[0],)) @ phi["weight"] + phi["bias"]).argmax(-1)
        return loss(phi, theta, query), (answers == query[1]).float().mean()

    def score() -> mf.training.Score:
        tasks = test.sample(options.test_tasks, torch.Generator().manual_seed(options.seed + 1))
        right = [outer(adapt(theta, s), theta, q)[1] for s, q in pairs(tasks)]
        return mf.training.Score.of(torch.stack(right))

    meta_grad = mf.meta_grad(outer, adapt, tasks=mf.Vmap(), has_aux=True, with_theta=True)
    adam, draws = torch.optim.Adam(theta.values(), lr=options.lr), torch.Generator().manual_seed(options.seed)
    print(f"unseen scripts before meta-training: {score()} of the queries right", flush=True)
    for _ in track(range(options.steps), description="meta-training"):
        tasks = training.sample(options.batch, draws)
        result = meta_grad(theta, tasks["support"], tasks["query"])
        mf.check(result)  # that SciPy reached a minimum and CG solved its system
        for name, parameter in theta.items():
            parameter.grad = result.grad[name]
        adam.step()
    print(f"unseen scripts after meta-training:  {score()} of the queries right")


def pairs(tasks: mf.data.Tasks) -> list[tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]]:
    """Support and query set of each task."""
    (x, y), (u, v) = tasks["support"], tasks["query"]
    return [((x[i], y[i]), (u[i], v[i])) for i in range(len(x))]


if __name__ == "__main__":
    main(tyro.cli(Options))
