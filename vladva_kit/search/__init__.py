"""Embed millions of images, index them and search them."""
