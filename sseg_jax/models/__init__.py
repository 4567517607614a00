"""Every network of the project, and nothing but networks."""
