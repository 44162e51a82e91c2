"""The commands by what they do; each does what the function of the same name does, and imports nothing heavy first."""
