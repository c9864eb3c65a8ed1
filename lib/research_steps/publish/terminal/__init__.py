"""The terminal as a surface: what commands print of records, as text for people."""
