"""Changes to the pictures of training clips, and mixing of batches."""
