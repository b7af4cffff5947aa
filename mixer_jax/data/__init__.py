"""Data: names to random-access sources, sources to batches, augmentation on the device."""
