"""Linear bounds (S-CROWN): coefficients carried backwards through layers and time."""
