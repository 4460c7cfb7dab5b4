"""The lab's model in PyTorch: for training and for sampling many replies at once. Serving needs NumPy only."""
# pyright: reportMissingImports=false

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Attention(nn.Module):
    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        width, size = config["hidden_size"], config["head_dim"]
        self.size = size
        self.q_proj = nn.Linear(width, config["num_attention_heads"] * size, bias=False)
        self.k_proj = nn.Linear(width, config["num_key_value_heads"] * size, bias=False)
        self.v_proj = nn.Linear(width, config["num_key_value_heads"] * size, bias=False)
        self.o_proj = nn.Linear(config["num_attention_heads"] * size, width, bias=False)

    def forward(
        self, x: Tensor, turn: tuple[Tensor, Tensor], past: tuple[Tensor, Tensor] | None, mask: Tensor | None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        rows, length, _ = x.shape
        query, key, value = (
            projection(x).view(rows, length, -1, self.size).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        query, key = _turned(query, turn), _turned(key, turn)
        if past is not None:
            key, value = torch.cat([past[0], key], 2), torch.cat([past[1], value], 2)
        shared = query.shape[1] // key.shape[1]
        keys, values = key.repeat_interleave(shared, 1), value.repeat_interleave(shared, 1)
        mixed = F.scaled_dot_product_attention(query, keys, values, attn_mask=mask, is_causal=mask is None)
        return self.o_proj(mixed.transpose(1, 2).reshape(rows, length, -1)), (key, value)


class Mlp(nn.Module):
    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        width, inner = config["hidden_size"], config["intermediate_size"]
        self.gate_proj = nn.Linear(width, inner, bias=False)
        self.up_proj = nn.Linear(width, inner, bias=False)
        self.down_proj = nn.Linear(inner, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        self.input_layernorm = nn.RMSNorm(config["hidden_size"], eps=config["rms_norm_eps"])
        self.self_attn = Attention(config)
        self.post_attention_layernorm = nn.RMSNorm(config["hidden_size"], eps=config["rms_norm_eps"])
        self.mlp = Mlp(config)


class Network(nn.Module):
    """A Llama whose tensors have the names that a Hugging Face checkpoint gives them, tied embeddings included.

    Args:
        config: The fields of its config.json.
    """

    cosine: Tensor
    sine: Tensor

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        self.config = config
        self.model: Any = nn.Module()
        self.model.embed_tokens = nn.Embedding(config["vocab_size"], config["hidden_size"])
        self.model.layers = nn.ModuleList(Layer(config) for _ in range(config["num_hidden_layers"]))
        self.model.norm = nn.RMSNorm(config["hidden_size"], eps=config["rms_norm_eps"])
        for parameter in self.parameters():
            if parameter.ndim == 2:
                nn.init.normal_(parameter, std=0.02)
        half = torch.arange(0, config["head_dim"], 2) / config["head_dim"]
        angles = (
            torch.arange(config["max_position_embeddings"])[:, None] / config["rope_parameters"]["rope_theta"] ** half
        )
        self.register_buffer("cosine", torch.cat([angles.cos(), angles.cos()], 1), persistent=False)
        self.register_buffer("sine", torch.cat([angles.sin(), angles.sin()], 1), persistent=False)

    def forward(
        self, tokens: Tensor, positions: Tensor | None = None, past: list | None = None, mask: Tensor | None = None
    ) -> tuple[Tensor, list]:
        """Hidden states (rows, length, width) of tokens (rows, length), and the keys and values so far."""
        x = self.model.embed_tokens(tokens)
        if positions is None:
            turn = (self.cosine[: tokens.shape[1]], self.sine[: tokens.shape[1]])
        else:
            turn = (self.cosine[positions][:, None], self.sine[positions][:, None])
        kept = []
        for i, layer in enumerate(self.model.layers):
            added, seen = layer.self_attn(layer.input_layernorm(x), turn, past[i] if past else None, mask)
            x = x + added
            x = x + layer.mlp(layer.post_attention_layernorm(x))
            kept.append(seen)
        return self.model.norm(x), kept

    def logits(self, hidden: Tensor) -> Tensor:
        """Next-token logits; the embedding serves as the head."""
        return hidden @ self.model.embed_tokens.weight.T

    @torch.no_grad()
    def sample(
        self,
        prompts: Sequence[Sequence[int]],
        end: int,
        *,
        limit: int,
        generator: torch.Generator,
        rows: int = 256,
    ) -> list[list[int]]:
        """One reply to each prompt at temperature 1, without its end token."""
        replies: list[list[int]] = [[] for _ in prompts]
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
        for start in range(0, len(order), rows):
            self._sample_together(order[start : start + rows], prompts, replies, end, limit, generator)
        return replies

    def _sample_together(self, group, prompts, replies, end, limit, generator) -> None:
        longest = max(len(prompts[i]) for i in group)
        tokens = torch.full((len(group), longest), end)
        real = torch.zeros((len(group), longest), dtype=torch.bool)
        for row, i in enumerate(group):
            tokens[row, longest - len(prompts[i]) :] = torch.tensor(prompts[i])
            real[row, longest - len(prompts[i]) :] = True
        positions = (real.cumsum(1) - 1).clamp(min=0)
        causal = torch.ones(longest, longest, dtype=torch.bool).tril()
        mask = (real[:, None] & causal) | torch.eye(longest, dtype=torch.bool)  # padding looks at itself
        hidden, past = self(tokens, positions, None, mask[:, None])
        group = list(group)
        for _ in range(limit):
            chosen = torch.multinomial(self.logits(hidden[:, -1].float()).softmax(-1), 1, generator=generator)
            going = [row for row, token in enumerate(chosen[:, 0].tolist()) if token != end]
            for row in going:
                replies[group[row]].append(int(chosen[row, 0]))
            if not going:
                break
            if len(going) < len(group):
                keep = torch.tensor(going)
                chosen, real, positions = chosen[keep], real[keep], positions[keep]
                past = [(key[keep], value[keep]) for key, value in past]
                group = [group[row] for row in going]
            positions = positions[:, -1:] + 1
            real = torch.cat([real, torch.ones((len(group), 1), dtype=torch.bool)], 1)
            hidden, past = self(chosen, positions, past, real[:, None, None])


def _turned(x: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
    first, second = x.chunk(2, -1)
    return x * turn[0] + torch.cat([-second, first], -1) * turn[1]
