"""Load an LVLM: family, device and dtype, resolution, and files."""
