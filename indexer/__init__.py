"""Everything of Dragoman that needs no window; importing it imports nothing heavy."""
