"""`tailrace top`: how things stand, live, on a terminal."""
