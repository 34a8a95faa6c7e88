"""What an evaluation has found: rates with their intervals, pictures, and one HTML page."""
