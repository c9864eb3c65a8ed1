"""What people and agents do to a thread, each an entry of its own."""
