"""Two models around one vision tower, as they are in training, and the losses that they learn by."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPConfig, CLIPModel, LlavaConfig, LlavaForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutputWithPooling

from experiments.pretraining.dataset import GRID, IGNORE_INDEX, PATCH_GROUPS
from experiments.pretraining.init import begin_llm, begin_places, begin_tower, place_axes
from vladva_kit.emoji_world.nouns import COLORS, COUNTS, GROUNDS, NOUNS, SIZES
from vladva_kit.emoji_world.words import BOS, EOS, IMAGE, IMAGE_SIZE, IMAGE_TOKENS, PAD, PATCH_SIZE, ids, vocabulary

NAMING_WEIGHTS = (3.0, 1.0, 1.0, 1.0, 1.0)  # what a thing is comes last of all by itself
TOLD_WEIGHTS = (4.0, 1.5, 1.5, 1.5, 1.5)  # of a told patch's words: what it shows is looked for most
GROUP_WORDS = ([noun.word for noun in NOUNS], [*COLORS, "natural"], list(SIZES), list(COUNTS[1:]), list(GROUNDS))


class JointModel(nn.Module):
    """Both models around one vision tower: `clip.vision_model` is `llava.model.vision_tower`."""

    def __init__(self) -> None:
        super().__init__()
        vision = {
            "hidden_size": 192, "intermediate_size": 768, "num_hidden_layers": 4, "num_attention_heads": 6,
            "image_size": IMAGE_SIZE, "patch_size": PATCH_SIZE, "hidden_act": "gelu",
        }  # fmt: skip
        special = {"vocab_size": len(vocabulary()), "pad_token_id": PAD, "bos_token_id": BOS, "eos_token_id": EOS}
        text = dict(
            hidden_size=192, intermediate_size=768, num_hidden_layers=3, num_attention_heads=6,
            max_position_embeddings=64, hidden_act="gelu", **special,
        )  # fmt: skip
        llm = dict(
            model_type="llama", hidden_size=256, intermediate_size=688, num_hidden_layers=4, num_attention_heads=4,
            num_key_value_heads=4, max_position_embeddings=1024, tie_word_embeddings=True, attention_bias=True,
            rope_parameters={"rope_type": "default", "rope_theta": 1e6}, **special,
        )  # fmt: skip
        self.clip = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=192))
        self.llava = LlavaForConditionalGeneration(
            LlavaConfig(
                vision_config={"model_type": "clip_vision_model", "projection_dim": 192, **vision},
                text_config=llm, image_token_index=IMAGE, image_seq_length=IMAGE_TOKENS,
                vision_feature_layer=-1, vision_feature_select_strategy="full", tie_word_embeddings=True,
            )
        )  # fmt: skip
        begin_tower(self.clip.vision_model)
        begin_llm(self.llava)
        # In training on CPUs, short sequences are faster by explicit products (in bfloat16 2–3 times) than by SDPA,
        # the LLM's long packed ones by SDPA.
        self.clip.set_attn_implementation("eager")
        self.llava.set_attn_implementation("sdpa")
        self.llava.model.vision_tower = self.clip.vision_model
        self.places = nn.Embedding(2 * GRID, 256)  # rows, then columns: for told patches, not shipped
        begin_places(self.places, self.llava.get_input_embeddings().weight)


def told(joint_model: JointModel, patch_words: Tensor) -> Tensor:
    """What a patch says when it is told, not seen: the sum of its words' embeddings, its row's and its column's.

    patch_words: (batch, 64, 5), IGNORE_INDEX where a group has no word. Returns (batch, 64, 256).
    """
    words = joint_model.llava.get_input_embeddings()(patch_words.clamp(min=0))
    loud = torch.tensor(TOLD_WEIGHTS, device=patch_words.device)[:, None]
    places = torch.arange(GRID * GRID, device=patch_words.device)
    placed = joint_model.places(places // GRID) + joint_model.places(GRID + places % GRID)
    return (words * loud * (patch_words != IGNORE_INDEX)[..., None]).sum(2) + placed


def naming(joint_model: JointModel, projected: Tensor, patch_words: Tensor) -> tuple[Tensor, Tensor]:
    """How far patches are from what they would say if told, and each PATCH_GROUPS' share of patches named rightly.

    The loss: cross-entropy over each group's words, summed by NAMING_WEIGHTS, the squared distance from the told
    patch as a share of that patch's square, and how far off its place it lies (`misplaced`). The words stay where the
    LLM has them.
    projected: (batch, 64, 256) patches after the projector; patch_words: (batch, 64, 5), IGNORE_INDEX elsewhere.
    """
    table, losses, right = joint_model.llava.get_input_embeddings().weight.detach(), [], []
    for group, words in enumerate(GROUP_WORDS):
        chosen = patch_words[..., group] != IGNORE_INDEX
        choices = torch.tensor([ids()[word] for word in words], device=projected.device)
        targets = (patch_words[..., group][chosen][:, None] == choices).int().argmax(1)
        logits = (projected[chosen] @ table[choices].T).float()
        losses.append(F.cross_entropy(logits, targets))
        right.append((logits.argmax(1) == targets).float().mean())
    named = sum(weight * loss for weight, loss in zip(NAMING_WEIGHTS, losses, strict=True))
    wanted = told(joint_model, patch_words).detach().float()
    apart = (projected.float() - wanted).square().sum(-1) / wanted.square().sum(-1)
    return named + apart.mean() + misplaced(table, projected.float(), wanted), torch.stack(right).detach()


def misplaced(table: Tensor, projected: Tensor, wanted: Tensor) -> Tensor:
    """The share of the places' variance that patches leave unexplained, left to right and top to bottom, summed.

    misplaced(words, told_patches, told_patches)    # 0; of patches that all say the same place, 2

    Of the distance from a told patch its place is so small a part that without this a tower forgets the columns of
    things in its first layer (R² 0.03 from its patches, 0.89 for rows), and no LLM can say what is left of what.
    table: (vocabulary, 256); projected, wanted: (batch, 64, 256).
    """
    axes = place_axes(table)
    off, along = (projected - wanted) @ axes.T, wanted @ axes.T
    return (off.square().mean((0, 1)) / along.var((0, 1))).sum()


def clip_losses(joint_model: JointModel, batch: dict[str, dict[str, Tensor]]) -> dict[str, Tensor]:
    """Symmetric contrastive loss on class tokens, and naming on patches."""
    pictured = batch["pictured"]
    seen = joint_model.clip.vision_model(pixel_values=pictured["pixel_values"], output_hidden_states=True)
    images = joint_model.clip.visual_projection(seen.pooler_output).float()
    texts = joint_model.clip.get_text_features(batch["written"]["input_ids"]).pooler_output.float()
    scale = joint_model.clip.logit_scale.exp().clamp(max=100)
    logits = scale * F.normalize(images, dim=-1) @ F.normalize(texts, dim=-1).T
    targets = torch.arange(len(logits), device=logits.device)
    contrastive = (F.cross_entropy(logits, targets) + F.cross_entropy(logits.T, targets)) / 2
    projected = joint_model.llava.model.multi_modal_projector(seen.hidden_states[-1][:, 1:])
    named, right = naming(joint_model, projected, pictured["patch_words"])
    return {"contrastive": contrastive, "naming": named, **_shares(right)}


def _shares(right: Tensor) -> dict[str, Tensor]:
    return {f"patch {group}": share for group, share in zip(PATCH_GROUPS, right, strict=True)}


def next_word_loss(llava: LlavaForConditionalGeneration, batch: dict[str, Tensor]) -> Tensor:
    """Weighted mean cross-entropy over the words to be learned; the head sees no other position."""
    inputs = {key: value for key, value in batch.items() if key not in ("labels", "weights", "patch_words")}
    states = llava.model(**inputs, use_cache=False).last_hidden_state
    learned = batch["labels"][:, 1:] != IGNORE_INDEX
    logits, weights = llava.lm_head(states[:, :-1][learned]).float(), batch["weights"][:, 1:][learned]
    return (weights * F.cross_entropy(logits, batch["labels"][:, 1:][learned], reduction="none")).sum() / weights.sum()


def told_features(joint_model: JointModel, patch_words: Tensor) -> BaseModelOutputWithPooling:
    """Told patches in the form of a tower's features; the class token says nothing."""
    patches = told(joint_model, patch_words)
    spoken = torch.cat([torch.zeros_like(patches[:, :1]), patches], 1)
    return BaseModelOutputWithPooling(pooler_output=list(spoken))


def read_losses(joint_model: JointModel, batch: dict[str, dict[str, Tensor]]) -> dict[str, Tensor]:
    """Next words behind told patches and behind texts."""
    features = told_features(joint_model, batch["pictured"]["patch_words"])
    pictured = {**batch["pictured"], "mm_encoder_outputs": {"image": features}}
    pictured_loss, written = (next_word_loss(joint_model.llava, part) for part in (pictured, batch["written"]))
    return {"pictured": pictured_loss, "written": written, "naming": torch.zeros_like(written)}


def llava_losses(joint_model: JointModel, batch: dict[str, dict[str, Tensor]]) -> dict[str, Tensor]:
    """Next words behind pictures and behind texts, and naming on patches, from one run of the tower."""
    pictured = dict(batch["pictured"])
    features = joint_model.llava.model.get_image_features(pixel_values=pictured.pop("pixel_values"), return_dict=True)
    projected = torch.stack(list(features.pooler_output))[:, 1:]
    named, right = naming(joint_model, projected, pictured["patch_words"])
    pictured["mm_encoder_outputs"] = {"image": features}
    pictured_loss, written = (next_word_loss(joint_model.llava, part) for part in (pictured, batch["written"]))
    return {"pictured": pictured_loss, "written": written, "naming": named, **_shares(right)}


LOSSES = {
    "read": (read_losses, ("pictured", "written")),
    "clip": (clip_losses, ("contrastive",)),
    "llava": (llava_losses, ("pictured", "written")),
}
