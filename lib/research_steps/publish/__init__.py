"""Projections of records: each surface shows every record that it should, once in the end."""
