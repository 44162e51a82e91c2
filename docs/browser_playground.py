"""Write the playground as one file that needs no Python: `python docs/browser_playground.py runs/playground.html`.

Cases, galleries and maps are computed here. What a visitor types is scored by emoji-llava's text encoder, which
docs/text_encoder.js runs in the browser; its weights are part of the file. onnxruntime-web would not fit: compressed
and in base64, it alone takes 4.9 of the 8 MB, and the weights need 7.
"""

from __future__ import annotations

import base64
import io
import json
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import vladva_kit as vk
from vladva_kit.embedder.prompts import text_inputs
from vladva_kit.evaluation.winoground import load_winoground

DOCS = Path(__file__).resolve().parent
MAX_BYTES = 8_000_000
N_CASES, N_PAIRS = 45, 40
BASE, CLIP, TUNED = "base", "CLIP", "fine-tuned"
# In the docs site the page takes the site's theme, which may differ from the browser's
THEME = """<style id="theme"></style><script>
try {
  const site = parent.document.body, schemes = { default: "light", slate: "dark" };
  const follow = () => {
    const scheme = schemes[site.dataset.mdColorScheme];
    const rule = scheme ? `:root, .vk-play { color-scheme: ${scheme} !important; }` : "";
    document.getElementById("theme").textContent = rule;
  };
  follow();
  const options = { attributeFilter: ["data-md-color-scheme"] };
  if (parent !== window) new parent.MutationObserver(follow).observe(site, options);
} catch { /* a page of another origin */ }
</script>
"""
TABS = ("probe", "search", "matrix", "map")
# Levels per root mean square of a tensor: the embeddings depend on attention more than on the MLP (measured)
LEVELS = {"lora_": 4096, "mlp": 1024, "self_attn": 8192, "images": 4096}


def tensors_of(embedder: vk.Embedder) -> dict[str, np.ndarray]:
    """Return the LLM's tensors and the adapter's by their names: `tensors_of(embedder)["norm.weight"]`."""
    tensors = {}
    for name, weight in embedder.lvlm.model.get_decoder().named_parameters():
        if "original_module" not in name:
            short = name.replace(".base_layer", "").replace(".modules_to_save", "").replace(".default", "")
            tensors[short] = weight.detach().float().numpy()
    return tensors


def pack(tensors: dict[str, np.ndarray]) -> tuple[list[tuple], bytes]:
    """Quantize matrices and compress all: ((name, shape, lowest level, step), …) and bytes; a step of 0 is float32."""
    described, planes, floats = [], [b"", b"", b""], b""
    for name, values in tensors.items():
        levels = next((levels for part, levels in LEVELS.items() if part in name and values.ndim > 1), None)
        low, step = 0, 0.0
        if levels is None:
            floats += values.astype("<f4").tobytes()
        else:
            step = float(np.sqrt((values**2).mean()) / levels)
            numbers = np.round(values / step).astype(np.int64).ravel()
            low = int(numbers.min())
            planes = [
                plane + ((numbers - low) >> 8 * k & 255).astype(np.uint8).tobytes() for k, plane in enumerate(planes)
            ]
        described.append((name, values.shape, low, step))
    return described, zlib.compress(b"".join([*planes, floats]), 9)


def as_text(data: bytes) -> str:
    """Write bytes as characters of seven bits, the lowest first; base64 would be an eighth larger.

    HTML changes three of them, which are written as other characters with the same low bits.
    """
    bits = np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little")
    bits = np.pad(bits, (0, -len(bits) % 7)).reshape(-1, 7)
    text = np.packbits(bits, axis=1, bitorder="little").tobytes().decode("ascii")
    return text.translate({ord(character): ord(character) + 256 for character in "\0\r<"})


def encoder_of(embedder: vk.Embedder, tensors: dict[str, np.ndarray]) -> tuple[dict[str, Any], str]:
    """Return what text_encoder.js reads: the setup as JSON values, and the weights as text."""
    tokenizer, config = embedder.lvlm.processor.tokenizer, embedder.lvlm.model.config.get_text_config()
    inputs = text_inputs(tokenizer, [""], embedder.text_prompt)
    with embedder.base():
        prompt = embedder.text_prompt.ids
    described, data = pack(tensors)
    setup = {
        "vocab": tokenizer.get_vocab(),
        "unknown": tokenizer.unk_token_id,
        "prefix": inputs.inputs["input_ids"][0, : inputs.prefix_length].tolist(),
        "encoders": {
            BASE: {"prompt": prompt, "lora": False},
            TUNED: {"prompt": embedder.text_prompt.ids, "lora": True},
        },
        "shape": {
            "width": config.hidden_size,
            "layers": config.num_hidden_layers,
            "headDim": config.head_dim,
            "theta": config.rope_parameters["rope_theta"],
            "eps": config.rms_norm_eps,
        },
        "rank": embedder.config.lora["r"],
        "scaling": embedder.config.lora["lora_alpha"] / embedder.config.lora["r"],
        "tensors": described,
        "bytes": len(data),
    }
    return setup, as_text(data)


def small_uri(uri: str) -> str:
    """Encode an image of the page as WebP, which is half as large."""
    buffer = io.BytesIO()
    Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))).save(buffer, "WEBP", quality=75, method=6)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def html() -> str:
    """Compute the page."""
    lvlm = vk.load_lvlm("emoji-llava")
    tuned = vk.Embedder.from_pretrained("emoji-llava-vladva", lvlm)
    models = {BASE: vk.Embedder(lvlm), CLIP: vk.load_baseline(), TUNED: tuned}
    cases = load_winoground(vk.sample("winoground_mini") / "unseen_style")
    pairs = [pair for pair in vk.load_pairs(vk.sample("emoji_pairs"), "unseen_style") if pair.short]
    page = vk.playground(models, cases[:: len(cases) // N_CASES], pairs[:N_PAIRS], tabs=TABS)
    counts = page.score_cases()
    for start in range(0, N_PAIRS, 16):
        page.handle({"do": "gallery", "start": start})
    for gap in (False, True):
        page.handle({"do": "map", "start": N_PAIRS, "method": "PCA", "gap": gap})
    images = {name: embedder.encode_image(page.images).numpy() for name, embedder in models.items() if name != CLIP}
    tensors = tensors_of(tuned) | {f"images.{name}": vectors for name, vectors in images.items()}
    setup, weights = encoder_of(tuned, tensors)
    page.state.update(world={}, images=[small_uri(uri) for uri in page.state["images"]])
    return page.html(before=scripts(counts, setup, weights))


def scripts(counts: dict[str, int], setup: dict[str, Any], weights: str) -> str:
    """Return the first lines of the page, and the encoder with its weights."""
    intro = (
        f"<b>{counts['fixed']} fixed, {counts['broken']} broken</b> by the fine-tune, of {sum(counts.values())} "
        "Winoground cases in a drawing style that no training used. Type in a caption: your browser embeds it with "
        "emoji-llava’s text encoder, before and after the fine-tune. Images are embedded already; your own, Compose, "
        "Attention and Chat need Python: <code>vladva play</code>."
    )
    source = (DOCS / "text_encoder.js").read_text(encoding="utf-8")
    return (
        f'{THEME}<p class="intro">{intro}</p>\n<style>.intro {{ font: 15px/1.5 system-ui, sans-serif; margin: 0; '
        "padding: 12px 16px 0; color: light-dark(#1f2328, #e6edf3); background: light-dark(#fff, #0d1117); }</style>\n"
        f'<script type="application/json" id="encoder">{json.dumps(setup).replace("<", chr(92) + "u003c")}</script>\n'
        f'<script type="text/plain" id="weights">{weights}</script>\n'
        f'<script type="module">\n{source}</script>'
    )


def main() -> None:
    """Write the file named on the command line. Raises RuntimeError if it is too large."""
    target = Path(sys.argv[1])
    with torch.inference_mode():
        content = html().encode()
    if len(content) > MAX_BYTES:
        raise RuntimeError(f"the page has {len(content):,} bytes; the limit is {MAX_BYTES:,}")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(content)
    print(f"{target}: {len(content):,} bytes")


if __name__ == "__main__":
    main()
