"""MAE-DFER: masked autoencoding of appearance and motion (section 3.3 of the paper)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from maedfer.errors import InputError
from maedfer.kernels import cubes as cut
from maedfer.kernels import functional, reference
from maedfer.kernels.cubes import gather_cubes
from maedfer.models.attention import apply_norm, layer_norm
from maedfer.models.checks import check_clips, check_config, check_count, check_pixels, check_tensor, check_wanted
from maedfer.models.config import MAEDFERConfig, channel_statistics
from maedfer.models.encoder import Encoder, draw_projections_apart, init_weights
from maedfer.models.fused import run_fused
from maedfer.models.masking import running_cell_mask, token_numbers, tube_mask, visible_tokens
from maedfer.models.positions import sincos_positions
from maedfer.models.serialization import PretrainedModel
from maedfer.models.tables import HoldsTables
from maedfer.models.transformer_block import TransformerBlock


def normalize_frames(frames: Tensor) -> Tensor:
    """Turn un-normalised frames into what the models take.

    Args:
        frames: [B, I, ...] uint8, or float in [0, 1]. Three channels are normalised with the ImageNet statistics,
            other counts only brought to [0, 1].

    Raises:
        InputError: neither bytes nor floats.
    """
    check_tensor(frames, "frames")
    check_pixels(frames, "frames")
    if frames.dim() < 3:
        raise InputError(f"frames must be [B, I, ...], a batch of clips or pictures, got {list(frames.shape)}")
    mean, std = channel_statistics(frames.shape[1])
    return reference.normalize(frames, mean=mean, std=std)


class MAEDFER(HoldsTables, PretrainedModel):
    """Masked autoencoder: LGI-Former (or ViT) on the visible tokens, a light decoder over all of them.

    Args:
        config: sizes, masking and objective.
    """

    model_type = "mae_dfer"
    config: MAEDFERConfig
    decoder_positions: Tensor

    def __init__(self, config: MAEDFERConfig) -> None:
        check_config(config, MAEDFERConfig, type(self).__name__)
        super().__init__(config)
        encoder = config.encoder
        self.encoder = Encoder(encoder)
        self.encoder_norm = layer_norm(encoder.embed_dim)
        self.encoder_to_decoder = nn.Linear(encoder.embed_dim, config.decoder_dim, bias=False)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, config.decoder_dim))
        self.add_tables()
        self.decoder_blocks = nn.ModuleList(
            TransformerBlock(
                config.decoder_dim,
                config.decoder_heads,
                encoder.mlp_ratio,
                qkv_bias=encoder.qkv_bias,
                impl=encoder.impl,
                backend=encoder.full_attention,
            )
            for _ in range(config.decoder_depth)
        )
        self.decoder_norm = layer_norm(config.decoder_dim)
        self.decoder_head = nn.Linear(config.decoder_dim, encoder.cube_values)
        self.apply(lambda module: init_weights(module, "xavier"))
        if encoder.architecture == "lgi":
            draw_projections_apart(self.encoder)
        nn.init.trunc_normal_(self.mask_token, std=0.02)

    def make_tables(self) -> dict[str, Tensor]:
        """The decoder's positions."""
        return {"decoder_positions": sincos_positions(self.config.encoder.num_tokens, self.config.decoder_dim)}

    def reset_parameters(self) -> None:
        """Draw the model's own parameter and make its table, as sharded training asks of every module."""
        self.fill_tables()
        nn.init.trunc_normal_(self.mask_token, std=0.02)

    def forward(self, frames: Tensor, visible: Tensor, wanted: Tensor, keep: Tensor | None = None) -> Tensor:
        """Predict the cubes of tokens that the encoder does not see.

        Nothing depends on values, so that a GPU is not waited for and torch.compile sees one graph.

        Args:
            frames: [B, I, *clip_size] uint8, or a normalised float clip.
            visible: [B, M, V] int64 row-major numbers of the tokens that the encoder sees, by region; `token_numbers`
                makes them from a mask.
            wanted: [B, n] int64 numbers of the tokens to reconstruct.
            keep: factors of stochastic depth from `draw_keep`; drawn here when None.

        Returns:
            [B, n, prod(patch_size) * I], values of a cube in the order (frame, row, column, channel).

        Raises:
            InputError: the clip is of another shape or dtype than the model takes, or masks were given in place of
                numbers.
        """
        check_tensor(visible, "visible")
        check_tensor(wanted, "wanted")
        if visible.dtype != torch.int64 or visible.dim() != 3 or wanted.dtype != torch.int64 or wanted.dim() != 2:
            raise InputError(
                "visible and wanted must be numbers of tokens, int64 [B, M, V] and [B, n], "
                f"got {visible.dtype} {list(visible.shape)} and {wanted.dtype} {list(wanted.shape)}: "
                "model.token_numbers makes them from masks"
            )
        check_clips(frames, self.config.encoder)
        check_wanted(wanted, frames, self.config.encoder)
        return self._decode(visible, self.encode(frames, visible, keep), wanted)

    def draw_keep(self, batch: int, share: tuple[int, int] = (0, 1)) -> Tensor | None:
        """Draw the factors of stochastic depth for one pass of `batch` clips; None where nothing is dropped.

        `share` as of `Encoder.draw_keep`.
        """
        return self.encoder.draw_keep(batch, share)

    def encode(self, frames: Tensor, visible: Tensor, keep: Tensor | None = None) -> Tensor:
        """The encoder's normalised output for the visible tokens, regions one after the other: [B, M * V, C]."""
        z = self.encoder(frames, visible, keep=keep)
        x = z[:, :, 1:] if self.encoder.has_representative_tokens else z
        return apply_norm(x, self.encoder_norm, self.config.encoder.impl).flatten(1, 2)

    def training_loss(
        self, frames: Tensor, visible: Tensor, wanted: Tensor, keep: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Normalise, predict, and compare with the target.

        Args:
            frames: [B, I, *clip_size] uint8, or float in [0, 1].
            visible: see `forward`.
            wanted: see `forward`.
            keep: see `forward`.

        Returns:
            float32 scalars "loss" (what to minimise), "appearance" and "motion" (its two parts, unweighted; with
            target="pixels" the errors of the first and of the other frames).
        """
        config = self.config
        check_clips(frames, config.encoder)
        # Bytes are normalised by the embedding, those of the visible tokens alone.
        clips = frames if frames.dtype == torch.uint8 else normalize_frames(frames)
        prediction = self.forward(clips, visible, wanted, keep)
        patch_size = config.encoder.patch_size
        if len(patch_size) == 2:
            # A picture is a clip of one frame.
            frames, patch_size = frames.unsqueeze(2), (1, *patch_size)
        appearance, motion = functional.masked_appearance_motion_loss(
            prediction,
            frames,
            wanted,
            patch_size=patch_size,
            motion=config.target != "pixels",
            normalize=config.normalize_target,
            impl=config.encoder.impl,
        )
        if config.target == "pixels":
            weight = 1.0 / patch_size[0]
        else:
            weight = {"joint": config.appearance_weight, "appearance": 1.0, "motion": 0.0}[config.target]
        # A part without weight is left out rather than multiplied by zero, so that it cannot bring in a NaN.
        parts = [weight * appearance] if weight > 0 else []
        parts += [(1.0 - weight) * motion] if weight < 1 else []
        return {"loss": sum(parts[1:], parts[0]), "appearance": appearance.detach(), "motion": motion.detach()}

    def random_masks(self, batch: int, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor | None]:
        """Draw masks for a batch, on the CPU.

        Returns:
            `hidden` [batch, K] bool in row-major (t, h, w) order, True for tokens that the encoder does not see, and
            `decoded` [batch, K] bool, True for those of them that the decoder reconstructs (None when all are).

        Raises:
            InputError: not a number of clips.
        """
        check_count("batch", batch)
        config = self.config
        hidden = torch.stack([tube_mask(config.encoder, config.mask_ratio, generator) for _ in range(batch)])
        if config.decoder_keep == 1.0:
            return hidden, None
        return hidden, torch.stack(
            [running_cell_mask(row, config.encoder, config.decoder_keep, generator) for row in hidden]
        )

    def token_numbers(self, hidden: Tensor, decoded: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """`visible` and `wanted`, as `forward` takes them, from masks as `random_masks` draws them.

        Args:
            hidden: [B, K] bool; every region of every clip must keep the same number of visible tokens.
            decoded: [B, K] bool subset of `hidden`, the same number for every clip; all of it when None.

        Returns:
            Both on the device of the model, wherever the masks are.

        Raises:
            InputError: shapes that do not fit, or masks that are uneven.
        """
        check_tensor(hidden, "hidden")
        order = self.encoder.region_order
        hidden = hidden.to(order.device)
        visible = visible_tokens(hidden, order)
        if decoded is None:
            return visible, token_numbers(hidden)
        check_tensor(decoded, "decoded")
        decoded = decoded.to(order.device)
        if decoded.dtype != torch.bool or decoded.shape != hidden.shape:
            raise InputError(
                f"decoded must be bool {list(hidden.shape)} as hidden is, got {decoded.dtype} {list(decoded.shape)}"
            )
        if bool((decoded & ~hidden).any()):
            raise InputError("decoded names tokens that are not hidden: it must be a subset, decoded & hidden")
        return visible, token_numbers(decoded)

    @torch.no_grad()
    def reconstruct(self, frames: Tensor, hidden: Tensor) -> dict[str, Tensor]:
        """Pictures of what the model reconstructs, in the manner of the paper's Fig. 4.

        Predictions are brought back to pixels with the mean and standard deviation of the true cubes (the usual way
        to show a masked autoencoder with normalised targets).

        Args:
            frames: [B, I, T, H, W] uint8, or float in [0, 1].
            hidden: [B, K] bool, True for tokens that the encoder does not see.

        Returns:
            Float clips [B, I, T, H, W] in [0, 1]: "masked" (hidden cubes grey), "appearance" (the predicted first
            frame of each cube held over it), "motion" (predicted differences around 0.5 grey; the first frames are
            grey), "full" (their sum), "original".

        Raises:
            InputError: the input has no time dimension.
        """
        config = self.config
        patch_size = config.encoder.patch_size
        if len(patch_size) != 3:
            raise InputError("reconstruction pictures need clips with a time dimension")
        check_clips(frames, config.encoder)
        clip = frames.float() / 255.0 if frames.dtype == torch.uint8 else frames
        visible, index = self.token_numbers(hidden)
        prediction = self.forward(normalize_frames(clip), visible, index).float()
        prediction = prediction.unflatten(2, (patch_size[0], -1, clip.shape[1]))  # [B, n, t, p, I]
        true = gather_cubes(clip, patch_size, index).flatten(4).permute(0, 1, 3, 4, 2)
        mean, spread = true.new_zeros(()), true.new_ones(())
        if config.normalize_target:
            mean = true.mean(dim=(2, 3), keepdim=True)
            spread = true.flatten(2, 3).std(dim=2)[:, :, None, None] + 1e-6
        first = prediction[:, :, :1] * spread + mean
        if config.target == "pixels":
            full = prediction * spread + mean
            motion = full - full[:, :, :1]
        else:
            motion = torch.cat([torch.zeros_like(first), prediction[:, :, 1:] * spread], dim=2)
            full = first + motion
        pictures = {
            "masked": torch.full_like(true, 0.5),
            "appearance": first.expand_as(full),
            "motion": motion + 0.5,
            "full": full,
        }
        out = {name: _paste(clip, cube, index, patch_size).clamp(0, 1) for name, cube in pictures.items()}
        visible_motion = clip - clip[:, :, :: patch_size[0]].repeat_interleave(patch_size[0], dim=2) + 0.5
        out["motion"] = _paste(visible_motion, pictures["motion"], index, patch_size).clamp(0, 1)
        out["original"] = clip
        return out

    def no_weight_decay(self) -> set[str]:
        """Parameters that take no weight decay although they are neither biases nor one-dimensional.

        Representative tokens take it here, as in the published pre-training, which spares them in fine-tuning only.
        """
        return {"encoder.positions", "mask_token"}

    def layer_index(self, name: str) -> int:
        """The layer of a parameter, as `LGIFormer.layer_index`; the decoder counts with the head."""
        if name.startswith(("encoder.embedding.", "encoder.positions")):
            return 0
        if name.startswith("encoder.blocks."):
            return int(name.split(".")[2]) + 1
        return self.config.encoder.depth + 1

    def _decode(self, visible: Tensor, encoded: Tensor, wanted: Tensor) -> Tensor:
        """Decode the tokens `wanted` [B, n] from `encoded` [B, K_visible, C], whose tokens are `visible` [B, M, V]."""
        x = self.encoder_to_decoder(encoded)
        positions = self.decoder_positions[0].to(x.dtype)
        places = visible.flatten(1)
        if self.config.decoder_order == "published":
            # The published decoder takes the k-th visible token of the region order for the k-th in (t, h, w) order.
            places = places.sort(dim=1).values
        x = torch.cat([x + positions[places], self.mask_token.to(x.dtype) + positions[wanted]], dim=1)
        for stream in run_fused(self.decoder_blocks, x):
            x = stream
        return self.decoder_head(apply_norm(x[:, -wanted.shape[1] :], self.decoder_norm, self.config.encoder.impl))

    def extra_repr(self) -> str:
        """Objective, for print(model)."""
        return f"mask_ratio={self.config.mask_ratio}, target={self.config.target!r}"


def _paste(clip: Tensor, cubes: Tensor, index: Tensor, patch_size: tuple[int, ...]) -> Tensor:
    """Put `cubes` [B, n, t, h * w, I] into a copy of `clip` [B, I, T, H, W] at the tokens `index` [B, n]."""
    out = clip.clone()
    view = cut.cubes(out, patch_size)  # [B, gt, gh, gw, I, t, h, w], a view of out
    height, width = view.shape[2:4]
    batch = torch.arange(len(clip), device=clip.device)[:, None]
    values = cubes.unflatten(3, patch_size[1:]).permute(0, 1, 5, 2, 3, 4)
    view[batch, index // (height * width), index // width % height, index % width] = values.expand(
        *index.shape, *view.shape[4:]
    )
    return out
