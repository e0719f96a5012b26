"""`tailrace doctor`: looks at what a worker depends on and says what to do."""
