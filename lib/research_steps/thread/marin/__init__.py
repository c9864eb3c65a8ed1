"""The binding to Marin, the only importer of it."""
