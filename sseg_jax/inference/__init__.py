"""From a picture and words to class scores and labels."""
