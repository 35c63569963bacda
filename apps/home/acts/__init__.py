"""What the buttons do, one module a chapter of the catalogue."""
