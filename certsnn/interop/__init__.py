"""Other libraries: auto_LiRPA as a second engine for bounds."""
