"""What `Core` holds for the rooms above it: each part belongs to one of them, and uses only what is below."""
