"""A run of passt or pasta: joins all other rooms."""
