"""The parts of ``gpu.py``, each in a process of its own."""
