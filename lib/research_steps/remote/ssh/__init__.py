"""Trials of dev mode on another machine that ssh leads to."""
