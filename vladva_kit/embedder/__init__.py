"""Turn an LVLM into an embedder: prompts, soft prompts, LoRA, generation and export."""
