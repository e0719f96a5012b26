"""The sans-IO core: it turns chunks into deltas and the outcome. It awaits nothing and reads no clock."""
