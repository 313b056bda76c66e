"""A small GPT: a decoder-only transformer whose tokens see what stands before them in their own sequence.

Layer norms stand in front of each branch ("pre-norm"), positions are rotary, the output shares the weights of the
embedding. After Radford et al. 2019, "Language Models are Unsupervised Multitask Learners", section 2.3, with rotary
positions (Su et al. 2021, arXiv:2104.09864).

Shapes: n rows · t tokens of a row · w width · a heads · d = w / a numbers of a head · v tokens of the vocabulary.
"""

import math
from contextlib import nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minibatch.models import init
from minibatch.models.noise import Dropout

DEVIATION = 0.02  # of the first weights


class GPT(nn.Module):
    """Logits (n, t, v) of the next token at every place of the rows `tokens`, integers (n, t).

    segment_ids: integers (n, t) of packed rows, one number for the tokens of a sequence, 0 for padding: a token sees
    tokens of its own number only. Without them each row is one sequence. Rotary positions depend on distances alone,
    and within a sequence distances are those of the row: so it does not matter at which token of a sequence a row
    begins, and no positions need to be given.

    dropout: rate behind the embedding and behind each branch, keyed to nominal time; the attention itself has none,
    because the kernels that compute it draw from torch's generator. seed: of the first weights, N(0, 0.02²), those in
    front of the sum of a branch divided by √(2 · layers). Raises ValueError for sizes that do not fit each other.

    >>> model = GPT(vocabulary=65, layers=2, heads=2, width=16, seed=1).eval()
    >>> model(torch.zeros(3, 10, dtype=torch.int64)).shape
    torch.Size([3, 10, 65])
    """

    def __init__(
        self, *, vocabulary: int, layers: int, heads: int, width: int, dropout: float = 0.0, seed: int = 0
    ) -> None:
        super().__init__()
        for name, number in (("vocabulary", vocabulary), ("layers", layers), ("heads", heads), ("width", width)):
            if number < 1:
                raise ValueError(f"GPT({name}={number}): expected at least 1")
        if width % (2 * heads):
            raise ValueError(
                f"GPT(width={width}, heads={heads}): rotary positions turn pairs of numbers, so width must be a "
                f"multiple of 2 · heads = {2 * heads}"
            )
        self.vocabulary = vocabulary
        # On the meta device the constructors draw nothing from the global generator; `_first_weights` gives the values.
        with torch.device("meta"):
            self.embedding = nn.Embedding(vocabulary, width)
            self.dropout = Dropout(dropout)
            self.blocks = nn.ModuleList(Block(heads=heads, width=width, dropout=dropout) for _ in range(layers))
            self.norm = nn.LayerNorm(width, bias=False)
        self.to_empty(device=torch.get_default_device())
        _first_weights(self, layers, seed)

    def forward(self, tokens: Tensor, segment_ids: Tensor | None = None) -> Tensor:
        if tokens.ndim != 2 or tokens.is_floating_point():
            raise ValueError(f"GPT needs tokens (n, t), integers; got {tokens.dtype} {tuple(tokens.shape)}")
        weight = self.embedding.weight
        turns = rotations(tokens.shape[1], self.blocks[0].size, weight.device)  # type: ignore[arg-type]
        mask = None if segment_ids is None else visible(segment_ids)
        x = self.dropout(F.embedding(tokens.to(torch.int64), weight))
        for block in self.blocks:
            x = block(x, turns, mask)
        return F.linear(self.norm(x), weight)


class Block(nn.Module):
    """Attention and a multilayer perceptron four times as wide, each added to what it was computed from: (n, t, w)."""

    def __init__(self, *, heads: int, width: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.size = heads, width // heads
        self.attention_norm = nn.LayerNorm(width, bias=False)
        self.query_key_value = nn.Linear(width, 3 * width, bias=False)
        self.attention_out = nn.Linear(width, width, bias=False)
        self.attention_dropout = Dropout(dropout)
        self.hidden_norm = nn.LayerNorm(width, bias=False)
        self.hidden = nn.Linear(width, 4 * width, bias=False)
        self.hidden_out = nn.Linear(4 * width, width, bias=False)
        self.hidden_dropout = Dropout(dropout)

    def forward(self, x: Tensor, turns: tuple[Tensor, Tensor], mask: Tensor | None) -> Tensor:
        x = x + self.attention_dropout(self.attention_out(self._attention(self.attention_norm(x), turns, mask)))
        hidden = F.gelu(self.hidden(self.hidden_norm(x)))
        result: Tensor = x + self.hidden_dropout(self.hidden_out(hidden))
        return result

    def _attention(self, x: Tensor, turns: tuple[Tensor, Tensor], mask: Tensor | None) -> Tensor:
        n, t, w = x.shape
        three = self.query_key_value(x).view(n, t, 3, self.heads, self.size).permute(2, 0, 3, 1, 4)  # (3, n, a, t, d)
        queries, keys = turned(three[:2], turns).unbind(0)
        values = three[2]
        # On the CPU the backward pass of this kernel takes three times as long in bfloat16 as in float32.
        with torch.autocast("cpu", enabled=False) if x.device.type == "cpu" else nullcontext():
            if x.device.type == "cpu":
                values = values.to(queries.dtype)
            mixed = F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask, is_causal=mask is None)
        return mixed.transpose(1, 2).reshape(n, t, w)


def visible(segment_ids: Tensor) -> Tensor:
    """Which tokens a token sees: bool (n, 1, t, t), true at [i, 0, q, k] where k ≤ q is of the same segment.

    Padding sees padding, so that no token sees nothing: a softmax over nothing is NaN.

    >>> visible(torch.tensor([[1, 1, 2]]))[0, 0].int().tolist()
    [[1, 0, 0], [1, 1, 0], [0, 0, 1]]
    """
    t = segment_ids.shape[1]
    before = torch.ones(t, t, dtype=torch.bool, device=segment_ids.device).tril()
    return ((segment_ids.unsqueeze(2) == segment_ids.unsqueeze(1)) & before).unsqueeze(1)


def rotations(count: int, size: int, device: torch.device, *, base: float = 10_000.0) -> tuple[Tensor, Tensor]:
    """Cosine and sine of the angles by which the places 0 … count - 1 are turned: float64 (count, size / 2) twice.

    Place p turns pair j by p · base^(-2j / size): arXiv:2104.09864, equation 15.
    """
    rates = base ** (-torch.arange(0, size, 2, dtype=torch.float64, device=device) / size)
    angles = torch.arange(count, dtype=torch.float64, device=device).unsqueeze(1) * rates
    return angles.cos(), angles.sin()


def turned(x: Tensor, turns: tuple[Tensor, Tensor]) -> Tensor:
    """Vectors (…, t, d) with the pairs (x[j], x[j + d/2]) turned by their place's angles; at least in float32."""
    cosines, sines = (part.to(torch.promote_types(x.dtype, torch.float32)) for part in turns)
    first, second = x.chunk(2, -1)
    return torch.cat((first * cosines - second * sines, second * cosines + first * sines), -1)


def _first_weights(model: GPT, layers: int, seed: int) -> None:
    init.fill(model, "lecun_normal", seed=seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim < 2:
                parameter.fill_(1.0)  # gains of the norms
            else:
                branches = 2 * layers if name.endswith("_out.weight") else 1
                parameter.mul_(DEVIATION * math.sqrt(parameter.shape[1] / branches))
