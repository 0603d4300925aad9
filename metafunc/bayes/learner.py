"""Meta-training of a prior with any estimator."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from metafunc import options, tree
from metafunc.batching import Batching, Vmap, count, single
from metafunc.bayes.elbo import Elbo
from metafunc.bayes.gaussian import Gaussian
from metafunc.bayes.module import Prior
from metafunc.bayes.noise import noise
from metafunc.bayes.predict import predict
from metafunc.estimator import Estimator
from metafunc.estimators import Explicit
from metafunc.functional import Functional, functional
from metafunc.inner import Inner, scalar
from metafunc.metagrad import meta_grad
from metafunc.outer import MetaStep, OuterLoop, sets
from metafunc.outer_checks import check_learned, inner_problem
from metafunc.tree import Tree


class BayesianLearner(OuterLoop):
    """Posteriors of tasks, meta-gradient and update of their prior, around a module and a ``torch.optim`` optimizer.

    What :class:`~metafunc.MetaOptimizer` is to point estimates. The outer loss is the expected loss of the query set
    under the posterior, ibaml (5), with samples of its own. It bounds the posterior predictive's loss (4) from above
    (Jensen), and never rewards a posterior for being wide; ``outer_loss=`` takes (4) itself.

    With ``Explicit()`` and ``hyperprior=`` this is ABML as ibaml compares to, with ``Implicit()`` it is iBaML.

    Source: ibaml, Algorithm 1; Ravi and Beatson 2019.

    Args:
        prior: A :class:`Prior`.
        loss_fn: ``loss_fn(outputs, targets) -> scalar``, a negative log-likelihood, for support and query sets.
        optimizer: A ``torch.optim`` optimizer of the prior's parameters.
        inner: From a problem to an inner problem: ``lambda p: mf.gradient_descent(**p, lr=0.01, steps=5)``.
        estimator: How the meta-gradient is made.
        kl_weight: As for :class:`Elbo`: for a mean loss, 1 over the size of the support set.
        samples: Of the posterior in training, for each of inner and outer loss.
        test_samples: The same for :meth:`evaluate` and :meth:`predict`.
        antithetic: As for :func:`noise`.
        variance: As for :class:`Elbo`.
        sampling: As for :class:`Elbo`.
        outer_loss: ``outer_loss(outputs, targets) -> scalar`` of the outputs of all samples, samples first, such as the
            mean of :func:`regression_nll`, in place of the mean over the samples of ``loss_fn``.
        hyperprior: A function of ``theta`` that is added to the outer loss, see :func:`gamma_hyperprior`.
        tasks: How the tasks of a batch are run: ``Vmap()``, ``Vmap(chunk=...)`` or ``Loop()``, equal in result.
        scheduler: A learning-rate scheduler of ``optimizer``, stepped after it.
        clip: The largest norm of the meta-gradient that is left alone.
        metrics: Functions ``metric(outputs, targets) -> scalar`` by name, of the outputs of all samples, samples first.
        test_inner: The inner problem of :meth:`evaluate` and :meth:`predict`. Default: ``inner``.
        seed: Of the noise.

    Raises:
        TypeError, ValueError: If an argument is of another kind or out of range.
    """

    def __init__(
        self,
        prior: Prior,
        loss_fn: Callable[[Any, Any], Tensor],
        optimizer: torch.optim.Optimizer,
        inner: Callable[[dict[str, Any]], Inner],
        estimator: Estimator = Explicit(),
        *,
        kl_weight: float,
        samples: int = 5,
        test_samples: int = 10,
        antithetic: bool = False,
        variance: float | None = None,
        sampling: Batching = Vmap(),
        outer_loss: Callable[[Any, Any], Tensor] | None = None,
        hyperprior: Callable[[Gaussian], Tensor] | None = None,
        tasks: Batching = Vmap(),
        scheduler: Any = None,
        clip: float | None = None,
        metrics: Mapping[str, Callable[[Any, Any], Tensor]] | None = None,
        test_inner: Callable[[dict[str, Any]], Inner] | None = None,
        seed: int = 0,
    ) -> None:
        given = {**locals()}
        signature = "outer_loss(outputs, targets) -> scalar"
        options.function("outer_loss", outer_loss, signature, optional=True)
        if outer_loss is not None:
            outer_loss = scalar(outer_loss, "outer_loss")
        options.instance("prior", prior, Prior, "an mf.bayes.Prior")
        super().__init__(
            given,
            prior,
            optimizer,
            estimator=estimator,
            tasks=tasks,
            scheduler=scheduler,
            clip=clip,
            metrics=metrics,
            seed=seed,
            name="prior",
        )
        self._checked = False
        self.prior = prior
        self.model: Functional = functional(prior.module, loss_fn)
        self.elbo = Elbo(self.model, kl_weight, variance, sampling)
        self.inner = inner_problem(inner, self.elbo.problem, "inner")
        self._outer_loss, self._hyperprior = outer_loss, hyperprior
        self._draws = {"train": samples, "test": test_samples}, antithetic
        for size in (samples, test_samples):  # now, and not after the first batch was drawn
            noise(torch.zeros(1), size, torch.Generator(), antithetic=antithetic)
        adapt = estimator(self.inner)
        test = (
            self.inner if test_inner is None else inner_problem(test_inner, self.elbo.problem, "test_inner")
        )
        self._test_adapt = estimator(test)
        self._meta_grad = meta_grad(self._outer, adapt, tasks=tasks, has_aux=True, with_theta=True)

    def step(self, tasks: Any) -> MetaStep:
        """One meta-step: gradients, clipping, and the update of the prior.

        Args:
            tasks: A dict with ``"support"`` and ``"query"``, or a pair of these; each is ``(inputs, targets)`` with a
                leading axis of tasks. Or a list with such a dict for each task, see :class:`~metafunc.MetaOptimizer`.

        Raises:
            NotFiniteError: If the loss or the meta-gradient is not finite; nothing was changed then.
        """
        self._clear()
        support, query = sets(tasks)
        tasks_here, theta = count((support, query)), self.prior.theta
        draws = torch.Generator(self._device).manual_seed((self._seed * 1_000_003 + self.steps) % 2**62)
        inside, outside = (self._noise("train", tasks_here, draws) for _ in range(2))
        if not self._checked:
            check_learned(self.inner, self.inner.args(theta, single((support, inside), 0)))
            self._checked = True
        with torch.no_grad():
            result = self._meta_grad(theta, support, inside, (query, outside))
        for part, named in self.prior.parts.items():
            for name, parameter in named.items():
                if parameter.requires_grad:
                    parameter.grad = result.grad[part][name]
        metrics = {name: value.mean() for name, value in result.aux.items()}
        return self._update(MetaStep(result.value, metrics, result.stats), (support, query))

    def evaluate(self, tasks: Any) -> dict[str, Tensor]:
        """The outer loss without hyper-prior (``"loss"``) and the metrics of every task; nothing is changed.

        The noise is the same at every call.

        Args:
            tasks: As for :meth:`step`.

        Shapes:
            [tasks] each.
        """

        def one(theta: Gaussian, support: Tree, inside: Tree, query: Tree) -> tuple[Tree, Tree]:
            outputs, losses = self._answers(self._test_adapt(theta, support, inside), *query)
            loss = self._pooled(outputs, losses, query[0][1])
            return (), {"loss": loss, **self._measure(outputs, query[0][1])}

        return self._test(one, tasks)

    def predict(self, tasks: Any) -> Tree:
        """The outputs of every sample for every task's query set, for :func:`calibration` or :func:`regression`.

        Args:
            tasks: As for :meth:`step`.

        Shapes:
            [tasks, samples, ...].
        """

        def one(theta: Gaussian, support: Tree, inside: Tree, query: Tree) -> tuple[Tree, Tree]:
            return (), self._answers(self._test_adapt(theta, support, inside), *query)[0]

        return self._test(one, tasks)

    @property
    def _made(self) -> dict[str, Any]:
        return {
            "estimator": f"Bayesian {self.estimator!r}",
            "inner": self.inner.name,
            "kl_weight": self.elbo.kl_weight,
            "variance": self.elbo.variance,
            "samples": self._draws[0]["train"],
            "antithetic": self._draws[1],
        }

    @property
    def _device(self) -> torch.device:
        return tree.leaves(self.prior.theta)[0].device

    def _noise(self, kind: str, tasks: int, draws: torch.Generator) -> Tree:
        samples, antithetic = self._draws
        return noise(self.prior.theta["mean"], samples[kind], draws, tasks=tasks, antithetic=antithetic)

    def _outer(self, phi: Gaussian, theta: Gaussian, query: Tree) -> tuple[Tensor, dict[str, Tensor]]:
        outputs, losses = self._answers(phi, *query)
        fixed = tree.map(lambda x: x.detach(), outputs)
        loss = self._pooled(outputs, losses, query[0][1])
        loss = loss if self._hyperprior is None else loss + self._hyperprior(theta)
        return loss, self._measure(fixed, query[0][1])

    def _pooled(self, outputs: Tree, losses: Tensor, targets: Tree) -> Tensor:
        """One loss of all samples."""
        return losses.mean() if self._outer_loss is None else self._outer_loss(outputs, targets)

    def _answers(self, phi: Gaussian, batch: Tree, z: Tree) -> tuple[Tree, Tensor]:
        """The outputs and the loss of every sample."""

        def both(params: Tree, batch: Tree) -> tuple[Tree, Tensor]:
            outputs = self.model.outputs(params, batch[0])
            return outputs, self.model.loss_fn(outputs, batch[1])

        return predict(both, self.elbo.posterior(phi), z, batch, sampling=self.elbo.sampling)

    def _measure(self, outputs: Tree, targets: Tree) -> dict[str, Tensor]:
        return {name: metric(outputs, targets) for name, metric in self._metrics.items()}

    def _test(self, one: Callable[..., tuple[Tree, Tree]], tasks: Any) -> Any:
        support, query = sets(tasks)
        tasks_here = count((support, query))
        draws = torch.Generator(self._device).manual_seed(2**62 + self._seed)
        inside, outside = (self._noise("test", tasks_here, draws) for _ in range(2))
        with torch.no_grad():
            return self._tasks.map(one, self.prior.theta, (support, inside, (query, outside)), tasks_here)[1]
