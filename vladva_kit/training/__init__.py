"""Fine-tune an embedder: losses, the step, cached gradients, several processes."""
