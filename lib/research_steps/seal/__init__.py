"""Sealed tags: a claim that can be checked, and measured again, a year later."""
