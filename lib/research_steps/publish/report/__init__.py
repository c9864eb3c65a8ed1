"""The report: a whole series as one static HTML file that opens from disk and asks the network for nothing."""
