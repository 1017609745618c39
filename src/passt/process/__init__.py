"""What this process is: user, privileges, signals, background."""
