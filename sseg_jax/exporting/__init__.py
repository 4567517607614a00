"""Files that segment pictures without this package."""
