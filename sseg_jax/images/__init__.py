"""Pictures and label maps: reading, colours, drawing."""
