"""Tables on disk: read and written whole, row by row with resuming, and on several machines."""
