"""Checks of hyper-parameters that methods share."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from vpeft.core.backbones.host import Host
from vpeft.errors import UserError
from vpeft.registry import PEFT_METHODS, nearest


def without_blocks() -> list[str]:
    """Names of the methods that attach to any network, with blocks or without."""
    return sorted(name for name, method in PEFT_METHODS.module_dict.items() if not method.needs_blocks)


class Checks:
    """Base of :class:`vpeft.core.contract.method.Method`: each check raises an error that names the field."""

    def need_blocks(self, host: Host) -> None:
        """A method that is defined by blocks needs a host that has some."""
        if self.needs_blocks and not host.blocks:
            raise UserError(
                f"{self.registered_name()} needs blocks; the {host.registered_name()} host of "
                f"{type(host.backbone).__name__} has none. Methods that attach: {', '.join(without_blocks())}."
            )

    def need_clips(self, host: Host) -> None:
        """A method that is defined by the frames of clips needs a host that has them where it takes them from."""
        if not self.needs_frames or host.frames_in in self.needs_frames:
            return
        name, own = self.registered_name(), host.registered_name()
        if not host.frames_in:
            raise UserError(
                f"{name} looks from frame to frame, and {own} is given images: run it on clips with "
                "dict(type='vpeft.ClipBackbone', image=...) (docs/video.md)."
            )
        raise UserError(
            f"{name} adds time to a backbone of single frames, and the attention of {own} sees all frames of a clip: "
            "ST-Adapter and every method for images attach there."
        )

    def need_width(self, field: str, host: Host, widths: Iterable[int] | None = None) -> None:
        """A rank or bottleneck must lie between 1 and the narrowest width that it is used at."""
        value = getattr(self, field)
        limit = min(widths if widths is not None else (block.dim for block in host.blocks))
        if not 1 <= value <= limit:
            raise UserError(
                f"{self.registered_name()}: {field}={value!r} must be a whole number from 1 to {limit}, the narrowest "
                f"width of {host.registered_name()} that it is used at."
            )

    def need_divisor(self, field: str, host: Host) -> None:
        """A reduction or a count of parts must divide every block's width."""
        value = getattr(self, field)
        for block in host.blocks:
            if block.dim % value:
                raise UserError(
                    f"{self.registered_name()}: {field}={value} does not divide the width {block.dim} of "
                    f"{host.registered_name()}."
                )

    def need_tokens(self, host: Host) -> None:
        """Other tokens than those of the map must fit into the stream and into the attention."""
        if not all(block.takes_tokens for block in host.blocks):
            raise UserError(
                f"{self.registered_name()} puts tokens into the stream, and the blocks of {host.registered_name()} "
                "take none: they have no attention, or work on maps. Adapters, LoRA and SSF attach there."
            )

    def need_attention(self, host: Host) -> None:
        """Every block must have attention."""
        if not all("qkv" in block.sites for block in host.blocks):
            raise UserError(
                f"{self.registered_name()} changes attention, and the blocks of {host.registered_name()} have none. "
                "Adapters, LoRA and SSF attach there."
            )

    def need_token_keys(self, host: Host) -> None:
        """Every block must have attention whose queries look for tokens."""
        self.need_attention(host)
        if not all(block.kind.token_keys for block in host.blocks):
            raise UserError(
                f"{self.registered_name()} puts keys beside those of the tokens, and attention of "
                f"{host.registered_name()} is among channels, where no key is of a token. PATT and VPT attach there."
            )

    def need_key_width(self, host: Host) -> None:
        """Keys must be as wide as values, and these as the attention."""
        for block in host.blocks:
            if len({last - first for first, last in map(block.rows, "kv")} | {block.inner}) > 1:
                raise UserError(
                    f"{self.registered_name()} adds keys as wide as values; in block {block.index} of "
                    f"{host.registered_name()} they have another width. LoRA attaches there."
                )

    def need_square(self, host: Host) -> None:
        """Queries, keys and values must be as wide as the stream, and the stream as wide at both ends of a block."""
        for block in host.blocks:
            if not block.is_square or block.dim_in != block.dim:
                raise UserError(
                    f"{self.registered_name()} is defined where queries, keys and values are as wide as the stream; in "
                    f"block {block.index} of {host.registered_name()} they are not. LoRA attaches there."
                )

    def need_full_keys(self, host: Host) -> None:
        """Keys and values must be of the same tokens as queries."""
        if not all(block.kind.full_keys for block in host.blocks):
            raise UserError(
                f"{self.registered_name()} changes the keys of every token; those of {host.registered_name()} are of a "
                "reduced map."
            )

    def need_any_tokens(self, host: Host, deed: str, instead: str) -> None:
        """Attention must be such that it can be run on other tokens than those of the map, behind its norm.

        Args:
            host: The host.
            deed: What the method does with it, for the message.
            instead: What attaches where that cannot be.
        """
        if not all(block.kind.any_tokens and not block.norm_behind for block in host.blocks):
            raise UserError(
                f"{self.registered_name()} {deed}, and that of {host.registered_name()} knows places in space "
                f"(windows, rotary or relative positions) or has no norm before it. {instead} attaches there."
            )

    def need_output_norm(self, host: Host, name: str | None = None) -> None:
        """A read-out takes the place of what an output norm (``name``, or any) reads or gives."""
        if name not in host.sites if name else not host.output_norms:
            if name in host.whole.sites or (name is None and host.whole.output_norms):
                raise UserError(
                    f"{self.registered_name()} reads at the output norm, which goes with the last block: blocks= must "
                    "name it too."
                )
            raise UserError(f"{self.registered_name()}: this {host.registered_name()} has no output norm to read at.")

    def need_image(self, host: Host) -> None:
        """A side network that sees what the patch embedding's convolution is given needs the image, or the clip."""
        convolutions = (m for m in host.embedding.modules() if isinstance(m, nn.modules.conv._ConvNd))
        if next(convolutions, None) is not host.modules["patch_embed"]:
            raise UserError(
                f"{self.registered_name()}'s side network sees the image, which is not what the patch embedding of "
                f"{host.registered_name()} is given."
            )

    def need_vector(self, host: Host) -> None:
        """A read-out that is one vector needs a head that reads one, of whatever width."""
        name = self.registered_name()
        if "pool_norm" in host.modules:
            raise UserError(f"{name}: this {host.registered_name()} norms a mean of its own width: use a class token.")
        if host.pools_tokens:
            raise UserError(
                f"{name} gives one vector, and this {host.registered_name()} pools tokens by attention: build it to "
                "read a class token or the mean."
            )
        width, own = self.out_width(host), host.blocks[-1].dim
        if host.fixed_width and width != own:
            raise UserError(
                f"{name} gives {width} features, and what {host.registered_name()} has behind its output norm (a "
                f"projection, a pooler) reads {own}: build it without (proj=None, add_pooling_layer=False)."
            )
        if host.reads_map:
            raise UserError(
                f"{name} gives one vector per image, and the head on this {host.registered_name()} reads maps."
            )

    def need_queries_apart(self, host: Host) -> None:
        """Further queries must be able to look at the keys of a block's tokens without being in its stream."""
        if not all(block.kind.queries_apart for block in host.blocks):
            raise UserError(
                f"{self.registered_name()} asks a block's keys by queries that are not in its stream; attention of "
                f"{host.registered_name()} asks for their places, or is not known to allow it. VPTDeep attaches there."
            )

    def need_one_width(self, host: Host) -> None:
        """A side network of one width needs a host of one width, with an output norm on its tokens alone."""
        name = self.registered_name()
        if len({width for block in host.blocks for width in (block.dim_in, block.dim)}) > 1:
            raise UserError(
                f"{name} is defined for a backbone of one width; {host.registered_name()} has stages. Use it on a ViT, "
                "or take a side method for stages (DTL, E3VA)."
            )
        if len(host.outputs) > 1:
            raise UserError(
                f"{name}'s side network takes the place of one output; this {host.registered_name()} gives those of "
                f"the blocks {', '.join(map(str, host.outputs))}: set its out_indices to the last."
            )
        self.need_output_norm(host, "norm.0")

    def need_choice(self, field: str, choices: Iterable[str]) -> None:
        """A named option must be one of ``choices``; a sequence of them must not be empty or repeat one."""
        value = getattr(self, field)
        values = [value] if isinstance(value, str) else list(value)
        for one in values:
            if one not in choices:
                raise UserError(f"{self.registered_name()}: unknown {field} {one!r}: {nearest(one, choices)}")
        if not values or len(set(values)) != len(values):
            raise UserError(f"{self.registered_name()}: {field}={value!r} must name at least one, each once.")
