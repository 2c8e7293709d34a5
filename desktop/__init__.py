"""The window. It knows the indexer only through api, errors, settings and client."""
