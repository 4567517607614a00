"""S-Seg+: a teacher labels pictures, and a student learns from them."""
