"""What a training step needs and takes, before a machine is rented."""
