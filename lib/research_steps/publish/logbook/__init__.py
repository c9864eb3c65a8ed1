"""The research logbook: append-only Markdown, made from records."""
