"""Bayesian meta-learning: Gaussian priors as meta-parameters, variational posteriors as inner solutions (ibaml)."""

from metafunc.bayes.answers import answers
from metafunc.bayes.calibration import (
    Calibration,
    Reliability,
    calibration,
    calibration_intervals,
    reliability,
)
from metafunc.bayes.elbo import Elbo
from metafunc.bayes.fixed_point import fixed_point
from metafunc.bayes.gaussian import Gaussian, kl, prior
from metafunc.bayes.hyperprior import gamma_hyperprior
from metafunc.bayes.learner import BayesianLearner
from metafunc.bayes.module import Prior
from metafunc.bayes.noise import noise, sample
from metafunc.bayes.pictures import draw_bands, draw_reliability
from metafunc.bayes.predict import Predictive, class_log_probabilities, predict, regression, regression_nll

__all__ = [
    "BayesianLearner",
    "Calibration",
    "Elbo",
    "Gaussian",
    "Predictive",
    "Prior",
    "Reliability",
    "answers",
    "calibration",
    "calibration_intervals",
    "class_log_probabilities",
    "draw_bands",
    "draw_reliability",
    "fixed_point",
    "gamma_hyperprior",
    "kl",
    "noise",
    "predict",
    "prior",
    "regression",
    "regression_nll",
    "reliability",
    "sample",
]
