"""Where images and labels come from: folders, lists, TFDS, and the embedded sets."""
