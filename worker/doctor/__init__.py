"""`tailrace doctor`: checks what a worker depends on and gives advice."""
