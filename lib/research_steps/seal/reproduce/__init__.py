"""Reproduction: what a tag sealed is measured again, from the tag alone, and held against what was sealed."""
