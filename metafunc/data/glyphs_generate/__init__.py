"""Draws the letters of `metafunc.data.glyphs()` anew: `python -m metafunc.data.glyphs_generate`; needs
matplotlib."""
