"""Where records last: intents, leases and records, one immutable object each, in the store of a series."""
