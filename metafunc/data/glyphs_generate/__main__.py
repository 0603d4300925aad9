"""Writes the file of drawings that the package ships: `python -m metafunc.data.glyphs_generate [--out FILE]
[--seed SEED]`."""

from argparse import ArgumentParser
from pathlib import Path

import numpy as np

from metafunc.data.glyphs_generate.generate import SEED, generate

parser = ArgumentParser(prog="python -m metafunc.data.glyphs_generate", description=__doc__)
parser.add_argument(
    "--out", type=Path, default=Path(__file__).parents[1] / "glyphs.npz", help="the file to write"
)
parser.add_argument(
    "--seed", type=int, default=SEED, help="of the random warps; the choice of letters has no seed"
)
chosen = parser.parse_args()
arrays = generate(chosen.seed)
np.savez_compressed(
    chosen.out,
    bits=arrays["bits"],
    shape=arrays["shape"],
    names=arrays["names"],
    splits=arrays["splits"],
    characters=arrays["characters"],
)
print(f"{chosen.out}: {len(arrays['names'])} letters, {chosen.out.stat().st_size:,} bytes")
