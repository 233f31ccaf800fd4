"""From the bytes of a file to what the network reads."""
