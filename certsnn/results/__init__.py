"""Results: their types, their one file format, and their summaries."""
