"""The machine: its devices, and the limits on their memory."""
