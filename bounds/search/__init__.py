"""Branch and bound on spike counts: constraints, linear programs, the search."""
