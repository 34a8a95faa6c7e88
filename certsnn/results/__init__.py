"""Results: their types, their one file format, and what is made of them."""
