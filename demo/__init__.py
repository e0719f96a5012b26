"""The demo, the simulator of a model server, and the Valkey they run on."""
