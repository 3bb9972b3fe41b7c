"""What the machine has: devices, and the limits on their memory."""
