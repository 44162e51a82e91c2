"""A user's script, checked by pyright and never run: `make types`."""

import json
from pathlib import Path

import torch
from PIL import Image

import vladva_kit as vk

lvlm = vk.load_lvlm("emoji-llava", dtype=torch.float32, device="cpu", max_pixels=512 * 512)
embedder: vk.Embedder = vk.attach(lvlm, lora={"r": 8})
history = vk.fit(embedder, vk.sample("emoji_pairs"), vk.Settings(steps=1, batch_size=4))
vk.fit(embedder, vk.load_pairs("pairs"), vk.Settings(steps=1), validation=True)
vk.fit(embedder, [vk.Pair(Image.new("RGB", (8, 8)), "a", "b")], validation=lambda e: {"a": 1.0})
vk.fit(embedder, vk.load_pairs("pairs"), validation=vk.metrics_on(vk.sample("winoground_mini")), early_stopping=3)
images: torch.Tensor = embedder.encode_image(["photo.jpg", Path("a.png"), Image.new("RGB", (8, 8))])
embedder.similarity(images, ["a dog"]).argmax(1)
paths = [Path("a.png")]
names = ["a.png"]
embedder.encode_image(paths)
embedder.encode_image(names)
embedder.encode_text(names)
result = vk.evaluate_winoground(embedder, vk.sample("winoground_mini"))
print(result.group.percent, str(result.group))
clip = vk.load_baseline("emoji-clip")
vk.evaluate_winoground(clip, "folder")
vk.evaluate_sugarcrepe(clip, Path("folder"))
print(vk.evaluate_retrieval(embedder, vk.load_pairs("pairs")).text_to_image[1].percent)
print(vk.evaluate_classification(clip, "folder", templates=["a {}"]).top[1].percent)
vk.likelihood(lvlm, paths, names)
vk.likelihood(embedder, names, names)
vk.evaluate_winoground(vk.LikelihoodScorer(lvlm), "folder")
vk.evaluate_vqa(embedder, "folder")
embedder.save_pretrained("my-adapter", results={"winoground": result})
url: str = embedder.push_to_hub("me/a")
files: list[str] = embedder.push_to_hub("me/a", dry_run=True)
again = vk.Embedder.from_pretrained("my-adapter", revision="main")
with again.base():
    text: str = again.generate("photo.jpg", "what?", history=[("a", "b")])
vk.interpolate(again, 0.5)
vk.check(lvlm)
for pair in vk.load_pairs("pairs"):
    pair.load_image()
json.dumps(history)
