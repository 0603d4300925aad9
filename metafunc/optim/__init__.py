"""The outer methods of the papers, as ordinary ``torch.optim`` optimizers."""

from metafunc.optim.clipped import ClippedGD
from metafunc.optim.gradient_norms import gradient_norms
from metafunc.optim.normalized import NormalizedGD
from metafunc.optim.smoothness_adaptive import SmoothnessAdaptiveGD

__all__ = ["ClippedGD", "NormalizedGD", "SmoothnessAdaptiveGD", "gradient_norms"]
