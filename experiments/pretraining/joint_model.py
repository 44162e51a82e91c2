"""emoji-clip and emoji-llava as trained together, with one shared image encoder, and their losses."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPConfig, CLIPModel, LlavaConfig, LlavaForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutputWithPooling

from experiments.pretraining.dataset import GRID, IGNORE_INDEX, PATCH_ATTRIBUTES
from experiments.pretraining.init import init_image_encoder, init_llm, init_patch_positions, position_axes
from experiments.pretraining.tokenizer import (
    BOS,
    EOS,
    IMAGE,
    IMAGE_SIZE,
    IMAGE_TOKENS,
    PAD,
    PATCH_SIZE,
    token_ids,
    vocabulary,
)
from vladva_kit.emoji_world.nouns import COLORS, COUNTS, GROUNDS, NOUNS, SIZES

# One value or word list per PATCH_ATTRIBUTES.
PATCH_LABEL_WEIGHTS = (3.0, 1.0, 1.0, 1.0, 1.0)  # nouns are the hardest to predict
ORACLE_WEIGHTS = (4.0, 1.5, 1.5, 1.5, 1.5)  # questions refer to nouns most often
ATTRIBUTE_WORDS = ([noun.word for noun in NOUNS], [*COLORS, "natural"], list(SIZES), list(COUNTS[1:]), list(GROUNDS))


class JointModel(nn.Module):
    """Both models around one image encoder: `clip.vision_model` is `llava.model.vision_tower`."""

    def __init__(self) -> None:
        super().__init__()
        self.clip, self.llava = _build_models()
        init_image_encoder(self.clip.vision_model)
        init_llm(self.llava)
        # Short sequences train faster on a CPU with explicit matrix products (2 to 3 times faster in bfloat16), the
        # LLM's long packed sequences with SDPA.
        self.clip.set_attn_implementation("eager")
        self.llava.set_attn_implementation("sdpa")
        self.llava.model.vision_tower = self.clip.vision_model
        self.patch_positions = nn.Embedding(2 * GRID, 256)  # rows, then columns: for oracle patches, not shipped
        init_patch_positions(self.patch_positions, self.llava.get_input_embeddings().weight)

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return self.patch_positions.weight.device


def _build_models() -> tuple[CLIPModel, LlavaForConditionalGeneration]:
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
    llava = LlavaConfig(
        vision_config={"model_type": "clip_vision_model", "projection_dim": 192, **vision},
        text_config=llm, image_token_index=IMAGE, image_seq_length=IMAGE_TOKENS,
        vision_feature_layer=-1, vision_feature_select_strategy="full", tie_word_embeddings=True,
    )  # fmt: skip
    clip = CLIPConfig(text_config=text, vision_config=vision, projection_dim=192)
    return CLIPModel(clip), LlavaForConditionalGeneration(llava)


def oracle_patches(joint_model: JointModel, labels: Tensor) -> Tensor:
    """Embed patches from their labels instead of pixels: the sum of the label words, the row and the column.

    labels: (batch, 64, 5), IGNORE_INDEX where an attribute does not apply. Returns (batch, 64, 256).
    """
    words = joint_model.llava.get_input_embeddings()(labels.clamp(min=0))
    weights = torch.tensor(ORACLE_WEIGHTS, device=labels.device)[:, None]
    index = torch.arange(GRID * GRID, device=labels.device)
    positions = joint_model.patch_positions(index // GRID) + joint_model.patch_positions(GRID + index % GRID)
    return (words * weights * (labels != IGNORE_INDEX)[..., None]).sum(2) + positions


def oracle_features(joint_model: JointModel, labels: Tensor) -> BaseModelOutputWithPooling:
    """Return oracle patches in the form of image features, with zeros for the class token."""
    patches = oracle_patches(joint_model, labels)
    features = torch.cat([torch.zeros_like(patches[:, :1]), patches], 1)
    return BaseModelOutputWithPooling(pooler_output=list(features))


def patch_label_loss(joint_model: JointModel, projected: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the patch-labeling loss and the accuracy per PATCH_ATTRIBUTES.

    The loss sums the cross-entropy over each attribute's words (by PATCH_LABEL_WEIGHTS), the relative squared distance
    to the oracle patch, and the `position_loss`. No gradient reaches the LLM's word embeddings.
    projected: (batch, 64, 256) patches after the projector; labels: (batch, 64, 5).
    """
    table, losses, accuracies = joint_model.llava.get_input_embeddings().weight.detach(), [], []
    for attribute, words in enumerate(ATTRIBUTE_WORDS):
        labeled = labels[..., attribute] != IGNORE_INDEX
        choices = torch.tensor([token_ids()[word] for word in words], device=projected.device)
        targets = (labels[..., attribute][labeled][:, None] == choices).int().argmax(1)
        logits = (projected[labeled] @ table[choices].T).float()
        losses.append(F.cross_entropy(logits, targets))
        accuracies.append((logits.argmax(1) == targets).float().mean())
    classification = sum(weight * loss for weight, loss in zip(PATCH_LABEL_WEIGHTS, losses, strict=True))
    oracle = oracle_patches(joint_model, labels).detach().float()
    distance = (projected.float() - oracle).square().sum(-1) / oracle.square().sum(-1)
    position = position_loss(table, projected.float(), oracle)
    return classification + distance.mean() + position, torch.stack(accuracies).detach()


def position_loss(table: Tensor, projected: Tensor, oracle: Tensor) -> Tensor:
    """Return the unexplained share of the patches' position variance, summed over both axes.

        position_loss(table, oracle, oracle)    # 0; about 2 if all patches have the same position

    Position contributes little to the squared distance. Without this loss the image encoder discards the columns in
    its first layer (R² of 0.03 for columns against 0.89 for rows), so the LLM cannot tell left from right.
    table: (vocabulary, 256) word embeddings; projected, oracle: (batch, 64, 256).
    """
    axes = position_axes(table)
    error, target = (projected - oracle) @ axes.T, oracle @ axes.T
    return (error.square().mean((0, 1)) / target.var((0, 1))).sum()


def next_token_loss(llava: LlavaForConditionalGeneration, batch: dict[str, Tensor]) -> Tensor:
    """Return the weighted mean cross-entropy over label tokens; logits are computed at their positions only."""
    inputs = {key: value for key, value in batch.items() if key not in ("labels", "weights", "patch_labels")}
    states = llava.model(**inputs, use_cache=False).last_hidden_state
    targets, weights = batch["labels"][:, 1:], batch["weights"][:, 1:]
    labeled = targets != IGNORE_INDEX
    logits, weights = llava.lm_head(states[:, :-1][labeled]).float(), weights[labeled]
    return (weights * F.cross_entropy(logits, targets[labeled], reduction="none")).sum() / weights.sum()


Losses = tuple[dict[str, Tensor], dict[str, Tensor]]  # the losses of a step and its patch accuracies, by name


def read_losses(joint_model: JointModel, batch: dict[str, dict[str, Tensor]]) -> Losses:
    """Compute next-token losses with oracle patches and on texts."""
    features = oracle_features(joint_model, batch["image"]["patch_labels"])
    image = {**batch["image"], "mm_encoder_outputs": {"image": features}}
    return _generation_losses(joint_model, image, batch["text"]), {}


def clip_losses(joint_model: JointModel, batch: dict[str, dict[str, Tensor]]) -> Losses:
    """Compute the symmetric contrastive loss and the patch-labeling loss."""
    clip, image = joint_model.clip, batch["image"]
    vision = clip.vision_model(pixel_values=image["pixel_values"], output_hidden_states=True)
    images = clip.visual_projection(vision.pooler_output).float()
    texts = clip.get_text_features(batch["text"]["input_ids"]).pooler_output.float()
    scale = clip.logit_scale.exp().clamp(max=100)
    logits = scale * F.normalize(images, dim=-1) @ F.normalize(texts, dim=-1).T
    targets = torch.arange(len(logits), device=logits.device)
    contrastive = (F.cross_entropy(logits, targets) + F.cross_entropy(logits.T, targets)) / 2
    projected = joint_model.llava.model.multi_modal_projector(vision.hidden_states[-1][:, 1:])
    labeling, accuracies = patch_label_loss(joint_model, projected, image["patch_labels"])
    return {"contrastive": contrastive, "patch_labels": labeling}, _by_attribute(accuracies)


def llava_losses(joint_model: JointModel, batch: dict[str, dict[str, Tensor]]) -> Losses:
    """Compute next-token losses on images and texts and the patch-labeling loss, encoding each image once."""
    image = dict(batch["image"])
    features = joint_model.llava.model.get_image_features(pixel_values=image.pop("pixel_values"), return_dict=True)
    projected = torch.stack(list(features.pooler_output))[:, 1:]
    labeling, accuracies = patch_label_loss(joint_model, projected, image["patch_labels"])
    image["mm_encoder_outputs"] = {"image": features}
    losses = _generation_losses(joint_model, image, batch["text"])
    return {**losses, "patch_labels": labeling}, _by_attribute(accuracies)


def _generation_losses(joint_model: JointModel, image: dict, text: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: next_token_loss(joint_model.llava, part) for name, part in (("image", image), ("text", text))}


def _by_attribute(accuracies: Tensor) -> dict[str, Tensor]:
    return {f"patch {name}": accuracy for name, accuracy in zip(PATCH_ATTRIBUTES, accuracies, strict=True)}


LOSSES = {"read": read_losses, "clip": clip_losses, "llava": llava_losses}  # by stage
