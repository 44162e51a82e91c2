"""Load an LVLM: its family, device, resolution and files."""
