"""The interfaces of other libraries, by the names of the libraries: ``higher``, ``learn2learn`` and ``torchopt``."""
