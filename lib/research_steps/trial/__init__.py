"""One number, on this machine: the code, the process, and what the journal has already."""
