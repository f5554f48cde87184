"""What is looked at, one file an area, each with `look(options)`, which gives findings as it comes to them."""
