"""Use the installed wheel away from the checkout: `make wheel` runs it in a new environment."""

import subprocess
import sys
from pathlib import Path

import vladva_kit as vk

assert Path(vk.__file__).is_relative_to(Path(sys.prefix)), f"{vk.__file__} is not the installed wheel"
assert (Path(vk.__file__).parent / "py.typed").is_file()
vladva = str(Path(sys.executable).parent / "vladva")
version = subprocess.run([vladva, "--version"], check=True, capture_output=True, text=True).stdout
assert version == f"vladva {vk.__version__}\n", version
embedder = vk.Embedder.from_pretrained("emoji-llava-vladva")
pairs = vk.load_pairs(vk.sample("emoji_pairs"), split="test")[:4]
scores = embedder.similarity([pair.load_image() for pair in pairs], [pair.short or "" for pair in pairs])
assert scores.shape == (4, 4)
folder = embedder.save_pretrained("my-adapter")
assert "Apache License" in (folder / "LICENSE").read_text() and (folder / "README.md").is_file()
assert vk.plots.recorded_collapse().curves
history = vk.fit(vk.attach(vk.load_lvlm("emoji-llava")), pairs, vk.Settings(steps=1, batch_size=4), progress=False)
print(f"{version.strip()} works from the wheel; loss of one step: {history[-1]['loss']:.2f}")
