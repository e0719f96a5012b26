"""The contract between web tier, worker and client. Pure: it opens no socket, starts no task and reads no clock."""
