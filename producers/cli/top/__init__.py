"""`tailrace top`: a live overview in a terminal."""
