"""The process of a trial.

Every trial runs in a child process of its own, forked by a parent (`parent`) that has imported the libraries that the
measure function needs and nothing of the experiment, and that holds no accelerator backend. The child (`child`)
imports the experiment as it is on disk and samples; it may crash, exit or hang without hurting anything else. Whoever
asks starts a parent of its own (`launcher`) or uses the kept one (`daemon`), and talks to it (`conversation`) over a
Unix socket that only its user can open. A `Host` (`host`) is a machine that trials run on, this one or another.
"""
