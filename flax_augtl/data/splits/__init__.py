"""Which examples are for training, validation and test, and what is wrong between them."""
