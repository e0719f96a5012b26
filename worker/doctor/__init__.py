"""`tailrace doctor`: checks what a worker depends on and says what to do."""
