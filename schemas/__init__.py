"""The contract between web tier, worker and client. Pure: opens no socket, starts no task, reads no clock."""
