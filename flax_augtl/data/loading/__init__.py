"""The order of the examples, and how they reach the devices."""
