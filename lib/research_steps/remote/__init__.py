"""The same number elsewhere: over ssh, or on a cluster."""
