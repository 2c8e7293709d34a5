"""Text to the terms of the lexical index, alike for passages and queries, in every script."""
