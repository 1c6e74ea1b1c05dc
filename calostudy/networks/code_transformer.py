"""A transformer that says the next code of a sequence, given all before it.

The small GPT of Calo-VQ (arXiv:2405.06605; Radford et al. 2018, Vaswani et al., arXiv:1706.03762):
each block has an attention to what came before and a perceptron, both beside a shortcut and
behind a layer normalisation. The condition takes one place of every code's vector.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class SequenceStructure:
    """Hyperparameters; hidden: numbers of a code's vector, the condition included."""

    hidden: int
    blocks: int
    heads: int
    dropout: float = 0.1


class CodeTransformer(nn.Module):
    """Codes below `vocabulary` in sequences of `length`, given one number (N, 1) of each."""

    def __init__(self, vocabulary: int, length: int, structure: SequenceStructure):
        super().__init__()
        hidden = structure.hidden
        self.length = length
        self.vectors = nn.Embedding(vocabulary, hidden - 1)
        self.places = nn.Parameter(torch.zeros(length, hidden))
        self.dropout = nn.Dropout(structure.dropout)
        self.blocks = nn.ModuleList(_Block(structure) for _ in range(structure.blocks))
        self.norm, self.say = nn.LayerNorm(hidden), nn.Linear(hidden, vocabulary, bias=False)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)

    def forward(self, codes: Tensor, condition: Tensor) -> Tensor:
        """Logits (N, T + 1, vocabulary) of every code and the next, given codes (N, T)."""
        before = F.pad(self.vectors(codes), (0, 0, 1, 0))
        given = condition[:, None].expand(-1, before.shape[1], -1)
        x = torch.cat([before, given], dim=-1) + self.places[: before.shape[1]]
        x = self.dropout(x)
        for block in self.blocks:
            x = block(x)
        return self.say(self.norm(x))

    def step(self, place: int, code: Tensor | None, condition: Tensor, kept: "Kept") -> Tensor:
        """The logits (N, vocabulary) at one place, after the code (N,) of the place before; `kept`
        has what the blocks found at all places before, and gets what they find here."""
        before = condition.new_zeros(len(condition), self.places.shape[1] - 1)
        before = before if code is None else self.vectors(code)
        x = torch.cat([before, condition], dim=-1) + self.places[place]
        for block, each in zip(self.blocks, kept, strict=True):
            x = block.step(place, x, each)
        return self.say(self.norm(x))

    def nothing_kept(self, n: int) -> "Kept":
        """Room for the keys and values of n sequences."""
        hidden, heads = self.places.shape[1], self.blocks[0].heads
        shape = 2, n, heads, self.length, hidden // heads
        return [self.places.new_zeros(shape) for _ in self.blocks]


Kept = list[Tensor]
"""Of each block, the keys and values of the places so far (2, N, heads, length, numbers)."""


class _Block(nn.Module):
    def __init__(self, structure: SequenceStructure):
        super().__init__()
        hidden = structure.hidden
        self.heads, self.chance = structure.heads, structure.dropout
        self.before, self.between = nn.LayerNorm(hidden), nn.LayerNorm(hidden)
        self.attend, self.join = nn.Linear(hidden, 3 * hidden), nn.Linear(hidden, hidden)
        self.widen, self.narrow = nn.Linear(hidden, 4 * hidden), nn.Linear(4 * hidden, hidden)
        self.dropout = nn.Dropout(structure.dropout)

    def forward(self, x: Tensor) -> Tensor:
        asked = self.attend(self.before(x)).unflatten(-1, (3, self.heads, -1))
        query, key, value = asked.permute(2, 0, 3, 1, 4)
        chance = self.chance if self.training else 0.0
        found = F.scaled_dot_product_attention(query, key, value, dropout_p=chance, is_causal=True)
        return self._rest(x, found.transpose(1, 2).flatten(2))

    def step(self, place: int, x: Tensor, kept: Tensor) -> Tensor:
        """As `forward` at one place, x (N, hidden); keys and values (2, N, heads, length, D)."""
        asked = self.attend(self.before(x)).unflatten(-1, (3, self.heads, 1, -1))
        query = asked[:, 0]
        kept[:, :, :, place] = asked[:, 1:, :, 0].transpose(0, 1)
        key, value = kept[:, :, :, : place + 1]
        found = F.scaled_dot_product_attention(query, key, value)
        return self._rest(x, found.flatten(1))

    def _rest(self, x: Tensor, found: Tensor) -> Tensor:
        x = x + self.dropout(self.join(found))
        return x + self.dropout(self.narrow(F.gelu(self.widen(self.between(x)))))
