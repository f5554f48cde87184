"""Data: annotation files, readers, frame sampling, augmentation, data sets, and their protocols."""
