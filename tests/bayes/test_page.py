"""The code of the page on Bayesian meta-learning runs as it stands."""

import torch

from tests.test_docs import run


def test_the_page_runs():
    torch.set_default_dtype(torch.float32)
    names = run("docs/bayes.md")
    slopes = names["result"].grad
    assert all(x.norm() > 1e-8 for part in slopes.values() for x in part.values())
    assert names["outputs"].shape == (8, 10, 10, 1)
    assert (names["bands"].std >= 0.3).all()
    assert 0 <= names["scores"].ece <= names["scores"].mce <= 1
