"""DNS: messages."""
