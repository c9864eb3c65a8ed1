"""The experiment issue, on GitHub or as a file."""
