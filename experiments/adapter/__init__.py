"""Train the adapter that ships with the kit, emoji-llava-vladva: `python -m experiments.adapter`."""
