"""The command `research`, and a thread as a program: parse, call, print."""
