"""Write an adapter's model card and license: how to use it with the kit, with peft alone, and through export."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vladva_kit.embedder.adapter import AdapterConfig, adapter_names, hand_written_prompts, soft_prompts
from vladva_kit.embedder.prompts import Prompt, begins_with_bos
from vladva_kit.embedder.provenance import PROVENANCE_FILE, Provenance, provenance_of
from vladva_kit.models.load import LVLM, SHIPPED_LVLMS, video_settings

if TYPE_CHECKING:
    from huggingface_hub import EvalResult, ModelCard

TEMPLATES = Path(__file__).parent / "templates"


def repository_files(
    lvlm: LVLM,
    config: AdapterConfig,
    repo_id: str,
    license: str = "apache-2.0",
    datasets: Sequence[str] = (),
    results: Mapping[str, Any] | None = None,
) -> dict[str, str]:
    """Return the text files of an adapter's repository by name: provenance.json, README.md and LICENSE.

    repository_files(lvlm, embedder.config, "me/my-adapter", license="mit")["LICENSE"]
    """
    provenance = provenance_of(lvlm)
    prompts = (soft_prompts if config.soft_prompt else hand_written_prompts)(lvlm, *config.prompts)
    card = model_card(lvlm, config, prompts, provenance, repo_id, license, datasets, results)
    return {PROVENANCE_FILE: provenance.to_json(), "README.md": f"{card}\n", "LICENSE": license_text(license)}


def model_card(
    lvlm: LVLM,
    config: AdapterConfig,
    prompts: tuple[Prompt, Prompt],
    provenance: Provenance,
    repo_id: str,
    license: str = "apache-2.0",
    datasets: Sequence[str] = (),
    results: Mapping[str, Any] | None = None,
) -> ModelCard:
    """Write the card of an attached adapter with huggingface_hub's ModelCard.

        model_card(lvlm, config, prompts, provenance_of(lvlm), "me/my-adapter", datasets=["me/my-pairs"])

    results: benchmark -> what an evaluate function returned; they become the front matter's model-index.
    """
    from huggingface_hub import ModelCard, ModelCardData

    title = repo_id.rpartition("/")[2]
    rows = [row for benchmark, result in (results or {}).items() for row in eval_results(benchmark, result)]
    data = ModelCardData(
        library_name="peft",
        base_model=provenance.public_base,
        pipeline_tag="feature-extraction",
        license=license,
        datasets=[*datasets] or None,
        tags=["vladva", "image-text-retrieval", "compositionality"],
        model_name=title if rows else None,
        eval_results=rows or None,
    )
    values = _template_values(lvlm, config, prompts, provenance)
    template = str(TEMPLATES / "card.md.j2")
    return ModelCard.from_template(data, template, **values, title=title, repo_id=repo_id, results=rows)


def _template_values(
    lvlm: LVLM, config: AdapterConfig, prompts: tuple[Prompt, Prompt], provenance: Provenance
) -> dict[str, Any]:
    """Return what the template shows besides the front matter."""
    image, text = prompts
    tokenizer = lvlm.processor.tokenizer
    on_hub = provenance.public_base is not None and provenance.base not in SHIPPED_LVLMS
    base = provenance.base
    return {
        **{name: getattr(provenance, name) for name in ("base", "revision", "max_pixels", "weights", "versions")},
        "dtype_name": provenance.dtype,
        "dtype": provenance.dtype.partition(",")[0],
        "kinds": " and ".join(["Soft prompts"] * config.soft_prompt + ["LoRA"] * (config.lora is not None)),
        "base_link": f"[{base}](https://huggingface.co/{base})" if on_hub else base,
        "public": provenance.public_base is not None,
        "repository": repository_url(),
        "alone": not lvlm.family.prompt_suffix,
        "resize": lvlm.family.resolution_control == "image",
        "video": "video_processor" in lvlm.processor.get_attributes() or bool(video_settings(lvlm)),
        "soft_prompt": config.soft_prompt,
        "rows_key": next((name for name in adapter_names(lvlm) if name.endswith("soft_prompt.weight")), None),
        "n_image": len(image.ids),
        "n_text": len(text.ids),
        "image_ids": list(image.ids),
        "text_ids": list(text.ids),
        "image_prefix": json.dumps(image.prefix, ensure_ascii=False),
        "text_prefix": json.dumps(text.prefix, ensure_ascii=False),
        "image_special": not begins_with_bos(tokenizer, image.prefix),
        "text_special": not begins_with_bos(tokenizer, text.prefix),
    }


def eval_results(benchmark: str, result: Any) -> list[EvalResult]:
    """Convert an evaluation's result to rows of a model-index, one for each score with an interval.

    eval_results("winoground", evaluate_winoground(embedder, folder))[0].metric_value    # percent
    """
    from huggingface_hub import EvalResult

    values = result.as_dict() if hasattr(result, "as_dict") else result
    return [
        EvalResult(
            task_type="feature-extraction",
            dataset_type=benchmark.lower().replace(" ", "-").replace("/", "-"),
            dataset_name=benchmark,
            metric_type="accuracy",
            metric_name=name,
            metric_value=round(score["percent"], 4),
            metric_args={"low": round(score["low"], 4), "high": round(score["high"], 4), "n": score["n"]},
        )
        for name, score in _scores(values)
    ]


def _scores(values: Any, name: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Find the scores with an interval in a result, with their names: ("groups swap", {"percent": …})."""
    if not isinstance(values, Mapping):
        return
    if {"percent", "low", "high", "n"} <= values.keys():
        yield name, values
        return
    for key, value in values.items():
        yield from _scores(value, f"{name} {key}".strip())


def license_text(license: str) -> str:
    """Return the content of LICENSE for an SPDX name in lower case: `license_text("apache-2.0")`."""
    if license == "apache-2.0":
        return (TEMPLATES / "apache-2.0.txt").read_text()
    return f"The adapter in this folder is licensed under {license}. The base model has a license of its own.\n"


def repository_url() -> str:
    """Return the kit's repository, which pyproject.toml names: `repository_url()`."""
    urls = importlib.metadata.metadata("vladva-kit").get_all("Project-URL") or []
    return dict(url.split(", ", 1) for url in urls)["Repository"]
