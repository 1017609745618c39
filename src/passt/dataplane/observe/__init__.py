"""Frame observers: packet capture and --trace."""
