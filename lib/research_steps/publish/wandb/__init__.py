"""Runs of Weights and Biases, made from records."""
