"""The command `tailrace` and the commands of producers."""
