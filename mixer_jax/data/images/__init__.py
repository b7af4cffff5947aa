"""Images: files, archives, data sets of TFDS and functions of the user's, all as uint8 [height, width, channels]."""
