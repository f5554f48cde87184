"""Names of transformers' VideoMAE."""

from __future__ import annotations

import torch


def videomae_names(state: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    """Original VideoMAE names to those of transformers' VideoMAEModel, written from its module tree."""
    out = {
        f"{prefix}embeddings.patch_embeddings.projection.weight": state["patch_embed.proj.weight"],
        f"{prefix}embeddings.patch_embeddings.projection.bias": state["patch_embed.proj.bias"],
        f"{prefix}layernorm.weight": state["fc_norm.weight"],
        f"{prefix}layernorm.bias": state["fc_norm.bias"],
    }
    for i in range(1 + max(int(key.split(".")[1]) for key in state if key.startswith("blocks."))):
        layer, block = f"{prefix}encoder.layer.{i}", f"blocks.{i}"
        dim = state[f"{block}.attn.q_bias"].shape[0]
        for j, part in enumerate(("query", "key", "value")):
            out[f"{layer}.attention.attention.{part}.weight"] = state[f"{block}.attn.qkv.weight"][
                j * dim : (j + 1) * dim
            ]
        for bias in ("q_bias", "v_bias"):
            out[f"{layer}.attention.attention.{bias}"] = state[f"{block}.attn.{bias}"]
        names = {
            "attention.output.dense": "attn.proj",
            "intermediate.dense": "mlp.fc1",
            "output.dense": "mlp.fc2",
            "layernorm_before": "norm1",
            "layernorm_after": "norm2",
        }
        for theirs, ours in names.items():
            for kind in ("weight", "bias"):
                out[f"{layer}.{theirs}.{kind}"] = state[f"{block}.{ours}.{kind}"]
    return out


def classifier_names(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The weights of a classifier under the names of VideoMAEForVideoClassification with mean pooling."""
    names = videomae_names(state, "videomae.")
    for kind in ("weight", "bias"):
        names[f"fc_norm.{kind}"] = names.pop(f"videomae.layernorm.{kind}")
        names[f"classifier.{kind}"] = state[f"head.{kind}"]
    return names


def autoencoder_names(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The weights of an autoencoder under the names of VideoMAEForPreTraining without mean pooling."""
    part = {key.removeprefix("encoder."): value for key, value in state.items() if key.startswith("encoder.")}
    part |= {f"fc_norm.{kind}": part.pop(f"norm.{kind}") for kind in ("weight", "bias")}
    decoder = {key.removeprefix("decoder."): value for key, value in state.items() if key.startswith("decoder.blocks.")}
    # The blocks of both are alike; the rest of what the helper wants is taken from the encoder and dropped.
    fill = {key: value for key, value in part.items() if not key.startswith("blocks.")}
    layers = {
        key.replace("encoder.layer.", "decoder.decoder_layers."): value
        for key, value in videomae_names({**fill, **decoder}, "").items()
        if key.startswith("encoder.layer.")
    }
    rest = ["encoder_to_decoder.weight", "mask_token"]
    rest += [f"decoder.{module}.{kind}" for module in ("norm", "head") for kind in ("weight", "bias")]
    return {**videomae_names(part, "videomae."), **layers, **{key: state[key] for key in rest}}
