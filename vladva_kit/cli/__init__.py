"""The `vladva` command."""
