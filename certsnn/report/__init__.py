"""Reports of an evaluation: rates with their intervals, pictures, and one HTML page."""
