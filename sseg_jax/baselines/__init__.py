"""Other systems as `Segmenter`s, scored by the same code as the method."""
