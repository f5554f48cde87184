"""How many clips a second are loaded, beside a loader that is written the published way."""
