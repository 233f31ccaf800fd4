"""Grid, trials, selection and tests of the layer-wise study."""
