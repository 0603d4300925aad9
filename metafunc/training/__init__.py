"""Long training of anything that learns from batches of tasks: progress, records, validation, checkpoints, pictures."""

from metafunc.training.evaluate import Score, evaluate
from metafunc.training.learner import Learner
from metafunc.training.loop import Run
from metafunc.training.pictures import draw_curves, draw_episode
from metafunc.training.train import train
from metafunc.training.validation import Validation

__all__ = ["Learner", "Run", "Score", "Validation", "draw_curves", "draw_episode", "evaluate", "train"]
