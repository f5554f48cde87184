"""Data: annotation files, readers, frame sampling, augmentation, data sets, and a synthetic data set."""
