"""Snapshots: a claim that can be checked, and measured again, a year later.

`sealing` makes them: `contents` works out what goes in, `bundle` is its form, `telling` its text for people, `commits`
and `pushing` are their git. `checking` holds logbook, journal and what is `tagged` against each other.
"""
