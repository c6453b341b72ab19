"""One thin adapter per benchmark."""
