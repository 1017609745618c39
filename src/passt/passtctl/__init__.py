"""passtctl: looks at running instances of pasta and passt, by the socket of --control, and steers them."""
