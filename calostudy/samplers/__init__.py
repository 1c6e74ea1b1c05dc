"""How networks become samples."""
