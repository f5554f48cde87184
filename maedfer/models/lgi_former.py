"""LGI-Former as classifier and feature extractor (section 3.2 of the paper), with the ViT baseline as a choice."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn

from maedfer.kernels._autocast import autocast_dtype
from maedfer.models.attention import AttentionMaps, layer_norm
from maedfer.models.checks import check_config, check_count
from maedfer.models.config import LGIFormerConfig
from maedfer.models.encoder import Encoder, init_weights
from maedfer.models.serialization import PretrainedModel


class LGIFormer(PretrainedModel):
    """Encoder, mean over the chosen tokens, LayerNorm, linear head.

    Args:
        config: sizes and switches.
    """

    model_type = "lgi_former"
    config: LGIFormerConfig

    def __init__(self, config: LGIFormerConfig) -> None:
        check_config(config, LGIFormerConfig, type(self).__name__)
        super().__init__(config)
        self.encoder = Encoder(config)
        self.head_norm = layer_norm(config.embed_dim)
        self.head = nn.Linear(config.embed_dim, config.num_classes) if config.num_classes else nn.Identity()
        self.apply(lambda module: init_weights(module, "trunc_normal"))
        if isinstance(self.head, nn.Linear):
            with torch.no_grad():
                self.head.weight.mul_(config.init_scale)

    def forward(self, clips: Tensor, mix: Tensor | None = None, keep: Tensor | None = None) -> Tensor:
        """Class logits.

        Args:
            clips: [B, I, *clip_size] float, normalised with IMAGENET_MEAN and IMAGENET_STD; or uint8, which the
                embedding normalises.
            mix: [5] float32, by which the embedding mixes clips in bytes for training (see `functional.tubelets`).
            keep: factors of stochastic depth from `draw_keep`, which gives a compiled model the random numbers of one
                that is not; drawn here when None.

        Returns:
            [B, num_classes]; the features [B, C] when num_classes is 0.

        Raises:
            InputError: the clip is of another shape or dtype than the model takes, or on another device.
        """
        return self.classify(self.forward_features(clips, mix, keep))

    def classify(self, features: Tensor) -> Tensor:
        """Class logits [B, num_classes] of what `forward_features` gives.

        Without gradients they are float32 under autocast too, where the head is as it was made: rounded to bfloat16,
        logits change more predictions than all that is rounded before them.
        """
        head = self.head
        exact = type(head) is nn.Linear and head.weight.dtype == features.dtype
        if not exact or not _scores_under_autocast(features):
            return head(features)
        with torch.autocast(features.device.type, enabled=False):
            return head(features)

    def forward_features(self, clips: Tensor, mix: Tensor | None = None, keep: Tensor | None = None) -> Tensor:
        """The pooled and normalised feature that the head sees: [B, C]."""
        only = self.reads_representative_only
        return self._pool(self.encoder(clips, representative_only=only, mix=mix, keep=keep))

    def draw_keep(self, batch: int, share: tuple[int, int] = (0, 1)) -> Tensor | None:
        """Draw the factors of stochastic depth for one pass of `batch` clips; None where nothing is dropped.

        `share` as of `Encoder.draw_keep`.
        """
        return self.encoder.draw_keep(batch, share)

    @property
    def reads_representative_only(self) -> bool:
        """Whether the head sees nothing but representative tokens, so that the last block need not finish others."""
        return self.encoder.has_representative_tokens and self.config.token_type == "region"

    def forward_intermediates(self, clips: Tensor) -> list[Tensor]:
        """The residual stream after every block: depth tensors [B, M, S, C] (ViT: [B, 1, K, C])."""
        return list(self.encoder.run_blocks(self.encoder.embed(clips)))

    def attention_maps(self, clips: Tensor) -> list[AttentionMaps]:
        """Attention probabilities of every block, by stage.

        Returns:
            One dictionary a block: "intra_region" [B, H, M, *region], what each representative token reads from the
            local tokens of its region (its own row is left out, so that rows may sum to less than one);
            "inter_region" [B, H, M, M]; "interaction" [B, H, *grid, M], what each local token reads from every
            representative token. A ViT has "attention" [B, H, K, K].
        """
        config = self.config
        blocks = self.encoder.attention_maps(self.encoder.embed(clips))
        if not self.encoder.has_representative_tokens:
            return [{"attention": maps["attention"][:, 0]} for maps in blocks]
        row_major = self.encoder.region_order.flatten().argsort()
        collected = []
        for maps in blocks:
            # Of row 0 alone, so that the others are let go.
            local = maps["intra_region"][:, :, :, 0, -config.region_tokens :].clone()  # [B, M, H, N]
            found = {"intra_region": local.transpose(1, 2).unflatten(-1, config.region)}
            if "inter_region" in maps:
                found["inter_region"] = maps["inter_region"]
            if "interaction" in maps:
                found["interaction"] = maps["interaction"][:, :, row_major].unflatten(2, config.grid)
            collected.append(found)
        return collected

    def freeze(self, blocks: int | None = None) -> None:
        """Stop training the embedding, the tokens, and the first `blocks` blocks of the encoder (all when None)."""
        self.encoder.freeze(blocks)

    def reset_head(self, num_classes: int) -> None:
        """Replace the head by a freshly initialised one for `num_classes` classes; 0 takes it away.

        Raises:
            InputError: not such a number.
        """
        check_count("num_classes", num_classes, least=0)
        weight = next(self.encoder.parameters())
        self.config = dataclasses.replace(self.config, num_classes=num_classes)
        if self.clip_settings is not None:
            self.clip_settings = dataclasses.replace(self.clip_settings, classes=(), temperature=None)
        self.head = nn.Linear(self.config.embed_dim, num_classes) if num_classes else nn.Identity()
        self.head.to(weight.device, weight.dtype)
        if isinstance(self.head, nn.Linear):
            init_weights(self.head, "trunc_normal")
            with torch.no_grad():
                self.head.weight.mul_(self.config.init_scale)

    def no_weight_decay(self) -> set[str]:
        """Parameters that take no weight decay although they are neither biases nor one-dimensional."""
        return {"encoder.positions", "encoder.representative_tokens"}

    def layer_index(self, name: str) -> int:
        """The layer of a parameter for layer-wise learning-rate decay.

        The embedding (and a learned position table) is layer 0, block i is i + 1, the rest depth + 1. The
        representative tokens count with the head, as in the published code.
        """
        if name.startswith(("encoder.embedding.", "encoder.positions")):
            return 0
        if name.startswith("encoder.blocks."):
            return int(name.split(".")[2]) + 1
        return self.config.depth + 1

    def _pool(self, z: Tensor) -> Tensor:
        """[B, M, S, C] -> [B, C]."""
        if self.encoder.has_representative_tokens:
            if self.config.token_type == "region":
                z = z[:, :, :1]
            elif self.config.token_type == "local":
                z = z[:, :, 1:]
        # One row a clip, of which scores are made: it keeps its digits.
        return self.head_norm(z.mean(dim=(1, 2), dtype=torch.float32 if _scores_under_autocast(z) else None))


def _scores_under_autocast(x: Tensor) -> bool:
    # Training stays as it is.
    return not torch.is_grad_enabled() and autocast_dtype(x.device.type) is not None and x.dtype != torch.float64
