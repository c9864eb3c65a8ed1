"""What follows from records, by rule: claims, hypotheses, and the state of a thread. Pure functions."""
