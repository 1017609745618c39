"""What the translators of one engine share."""
