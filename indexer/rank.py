"""From dense and lexical evidence to one order and one similarity."""
