"""Experiments: one package for each research thread."""
