"""DeepLesion: key slices with boxes and attributes, in the public layout or synthetic."""
