"""What UDP and echo flows have in common."""
