"""Doors to other libraries, one small adapter each; the libraries themselves are not needed to walk out."""
