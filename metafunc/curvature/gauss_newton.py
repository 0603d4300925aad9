"""The Gauss-Newton matrix: second derivatives without those of the model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from metafunc import errors, tree
from metafunc.autodiff import grad, jvp, vjp
from metafunc.curvature.curvature import Curvature, Hessian
from metafunc.inner import Args, Inner, plain_gradient
from metafunc.tree import Tree


@dataclass(frozen=True, slots=True, repr=False)
class GaussNewton(Curvature):
    """The generalised Gauss-Newton matrix, positive semi-definite for a criterion that is convex in the outputs.

    Maths: for ``g = criterion(model(phi)) + rest(phi)``, with the Jacobian ``J`` of the model's outputs,
    ``G = J^T (d2 criterion / doutputs2) J + d2 rest / dphi2``, where ``rest`` are the proximal term and the weight
    decay. Mixed derivatives with the arguments are exact.

    Source: Schraudolph 2002; Martens 2010 (reference [36] of imaml, for Hessian-free solvers).

    Exact when: the model is linear in ``phi``, or the criterion's gradient in the outputs is zero.

    Bias: ``sum_i (d criterion / doutput_i) d2 output_i / dphi2`` is missing of the Hessian.

    Cost: one product with ``J``, one with ``J^T`` from a kept graph, and one with the small matrix between them.

    Raises:
        TypeError: For an inner problem whose loss is not an ``mf.Composed(model, criterion)``.
    """

    def hessian(self, inner: Inner) -> Hessian:
        """See :class:`GaussNewton`."""
        if inner.parts is None:
            raise errors.needs_composed(inner.name)
        model, criterion, rest = inner.parts

        def products(phi: Tree, args: Args) -> Callable[[Tree], Tree]:
            outputs, pull = vjp(lambda p: model(p, args), phi)
            _, bend = vjp(lambda o: grad(criterion, o, args), outputs)

            def of_model(w: Tree) -> Tree:
                _, moved = jvp(lambda p: model(p, args), (phi,), (w,))
                return pull(bend(moved)[0])[0]

            if rest is None:
                return of_model
            _, pull_rest = vjp(lambda p: plain_gradient(rest)(p, args), phi)
            return lambda w: tree.add(of_model(w), pull_rest(w)[0])

        return products
