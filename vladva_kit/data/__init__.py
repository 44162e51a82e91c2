"""Read and check image-caption pairs, image folders and streams."""
