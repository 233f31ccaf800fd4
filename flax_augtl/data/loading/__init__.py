"""Order the examples, and bring them to the devices."""
