"""Everything of Dragoman that needs no window; importing it imports nothing heavy."""

__version__ = "0.1.0"
