"""Snapshots: a claim that can be checked, and measured again, a year later.

`sealing` makes them, `commits` is their git, `bundle` what they hold, `checking` holds logbook, journal and snapshots
against each other.
"""
