"""The Querying Transformer: queries read an image, text joins their self-attention, masks say who sees whom.

Source: BLIP-2, section 3.1; Ziya-Visual, section 3.2 and Figure 2.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import InstructBlipQFormerConfig
from transformers.activations import ACT2FN

KeysValues = list[tuple[Tensor, Tensor]]


def bidirectional_mask(text_mask: Tensor, num_queries: int) -> Tensor:
    """Queries and text all see each other, padding is seen by nobody (ITM, and instructions in Chat).

    text_mask: (batch, length), True for real tokens.
    Returns (batch, 1, total, total) bool, True where attention is allowed; total = num_queries + length.
    """
    keys = F.pad(text_mask.bool(), (num_queries, 0), value=True)  # (batch, total)
    return keys[:, None, None, :].expand(-1, 1, keys.shape[1], -1)


def causal_mask(text_mask: Tensor, num_queries: int) -> Tensor:
    """Queries see queries only; a text token sees every query, itself and earlier text (ITG).

    text_mask: (batch, length), True for real tokens.
    Returns (batch, 1, total, total) bool, True where attention is allowed; total = num_queries + length.
    """
    mask = bidirectional_mask(text_mask, num_queries).clone()
    mask[:, :, :num_queries, num_queries:] = False
    mask[:, :, num_queries:, num_queries:].logical_and_(_lower_triangle(text_mask))
    return mask


def unimodal_mask(text_mask: Tensor, num_queries: int) -> Tensor:
    """Queries see queries, text sees text, neither sees the other (ITC).

    text_mask: (batch, length), True for real tokens.
    Returns (batch, 1, total, total) bool, True where attention is allowed; total = num_queries + length.
    """
    mask = bidirectional_mask(text_mask, num_queries).clone()
    mask[:, :, :num_queries, num_queries:] = False
    mask[:, :, num_queries:, :num_queries] = False
    return mask


def block_mask(text_mask: Tensor, num_queries: int) -> Tensor:
    """Who may attend to whom when ITC and ITG share one pass over `[queries | ITC text | ITG text]`.

    The first two blocks are the uni-modal mask, the first and the third the causal one. The two copies of the
    text never see each other, so one pass computes what two separate passes do.

    text_mask: (batch, length), True for real tokens.
    Returns (batch, 1, total, total) bool, True where attention is allowed; total = num_queries + 2 * length.
    """
    batch, length = text_mask.shape
    itc, itg = num_queries, num_queries + length  # where the two copies of the text begin
    mask = text_mask.new_zeros((batch, 1, itg + length, itg + length), dtype=torch.bool)
    real = text_mask.bool()[:, None, None, :]
    mask[:, :, :itc, :itc] = True
    mask[:, :, itc:itg, itc:itg] = real
    mask[:, :, itg:, :itc] = True
    mask[:, :, itg:, itg:] = real & _lower_triangle(text_mask)
    return mask


def _lower_triangle(text_mask: Tensor) -> Tensor:
    length = text_mask.shape[1]
    return torch.ones(length, length, dtype=torch.bool, device=text_mask.device).tril()


def select_kv(image_kv: KeysValues, index: Tensor) -> KeysValues:
    """The cross-attention keys and values of the images `index` (rows,), as if computed from these images."""
    return [(key.index_select(0, index), value.index_select(0, index)) for key, value in image_kv]


class QFormer(nn.Module):
    """Querying Transformer: learned queries read an image through cross-attention.

    Queries and text share self-attention; only queries see the image, and each kind has its own feed-forward.
    Weight names are those of transformers' InstructBlipQFormerModel. Source: BLIP-2, section 3.1.

    config: transformers' InstructBlipQFormerConfig; its dropout rates are not used.
    dropout: one rate for embeddings, attention and outputs; off by default.
    """

    def __init__(self, config: InstructBlipQFormerConfig, dropout: float = 0.0):
        super().__init__()
        if config.hidden_size % config.num_attention_heads:
            raise ValueError(
                f"QFormer: hidden_size {config.hidden_size} is not a multiple of "
                f"num_attention_heads {config.num_attention_heads}"
            )
        self.config = config
        self.embeddings = Embeddings(config, dropout)
        self.encoder = nn.Module()  # keeps the name `encoder.layer.N`
        self.encoder.layer = nn.ModuleList(
            Layer(config, dropout, cross_attention=index % config.cross_attention_frequency == 0)
            for index in range(config.num_hidden_layers)
        )
        self.apply(self._initialise)

    def _initialise(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=self.config.initializer_range)
        if isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)
        if isinstance(module, nn.Embedding) and module.padding_idx is not None:
            with torch.no_grad():
                module.weight[module.padding_idx].zero_()

    def keys_values(self, image_embeds: Tensor) -> KeysValues:
        """Cross-attention keys and values, computed once an image and reusable by any number of passes.

        image_embeds: (batch, patches, encoder_hidden_size). Returns one (key, value) per layer with
        cross-attention, each (batch, patches, hidden_size).
        """
        if image_embeds.ndim != 3 or image_embeds.shape[-1] != self.config.encoder_hidden_size:
            raise ValueError(
                f"QFormer: image_embeds has shape {tuple(image_embeds.shape)}, expected (batch, patches, "
                f"{self.config.encoder_hidden_size})"
            )
        layers = [layer.crossattention.attention for layer in self.encoder.layer if layer.has_cross_attention]
        image_embeds = _to_weights(image_embeds, self.embeddings.layernorm.weight)
        return [(attention.key(image_embeds), attention.value(image_embeds)) for attention in layers]

    def forward(
        self,
        query_embeds: Tensor | None = None,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        image_embeds: Tensor | None = None,
        image_kv: KeysValues | None = None,
        queries_only: bool = False,
        attentions: list[Tensor] | None = None,
    ) -> Tensor:
        """Run queries, text, or both, in this order along the sequence.

        query_embeds: (batch, queries, hidden_size). input_ids: (batch, length).
        attention_mask: None (all see all), (batch, total) True for real positions, or bool
            (batch, 1, total, total), True where attention is allowed; total = queries + length.
        position_ids: (batch, length) or (1, length), positions of the text; 0, 1, ... by default.
        image_embeds: (batch, patches, encoder_hidden_size), or image_kv: the result of `keys_values`. Queries
            require one of them.
        queries_only: return the queries alone; the last layer then spends nothing on text.
        attentions: list that receives each cross-attention's probabilities (batch, heads, queries, patches).

        Returns (batch, total, hidden_size), or (batch, queries, hidden_size) with queries_only.
        Raises ValueError when inputs are missing or their shapes disagree.
        """
        num_queries = 0 if query_embeds is None else query_embeds.shape[1]
        if num_queries and image_kv is None:
            if image_embeds is None:
                raise ValueError("QFormer: query_embeds need image_embeds or image_kv, both are None")
            image_kv = self.keys_values(image_embeds)
        hidden = self.embeddings(query_embeds, input_ids, position_ids)
        mask = self._expand_mask(attention_mask, hidden)

        keys_values = iter(image_kv or ())
        last = len(self.encoder.layer) - 1
        for index, layer in enumerate(self.encoder.layer):
            kv = next(keys_values) if num_queries and layer.has_cross_attention else None
            hidden = layer(hidden, num_queries, mask, kv, queries_only and index == last, attentions)
        return hidden

    def cross_attention(
        self,
        query_embeds: Tensor,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        image_embeds: Tensor | None = None,
        image_kv: KeysValues | None = None,
    ) -> Tensor:
        """What queries look at: (batch, cross-attention layers, heads, queries, patches), rows sum to 1."""
        maps = []
        self(query_embeds, input_ids, attention_mask, None, image_embeds, image_kv, True, maps)
        return torch.stack(maps, dim=1)

    @staticmethod
    def _expand_mask(attention_mask: Tensor | None, hidden: Tensor) -> Tensor | None:
        if attention_mask is None:
            return None
        batch, total, _ = hidden.shape
        if attention_mask.shape == (batch, total):
            return attention_mask.bool()[:, None, None, :]
        if attention_mask.shape == (batch, 1, total, total) and attention_mask.dtype == torch.bool:
            return attention_mask
        raise ValueError(
            f"QFormer: attention_mask is {attention_mask.dtype} {tuple(attention_mask.shape)}, expected "
            f"{(batch, total)} or bool {(batch, 1, total, total)}, where the sequence is queries, then text"
        )


class Embeddings(nn.Module):
    """Queries as they are, then words plus positions, all normalised."""

    def __init__(self, config: InstructBlipQFormerConfig, dropout: float):
        super().__init__()
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size, config.pad_token_id)
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, query_embeds: Tensor | None, input_ids: Tensor | None, position_ids: Tensor | None
    ) -> Tensor:
        if query_embeds is None and input_ids is None:
            raise ValueError("QFormer: give query_embeds, input_ids or both; both are None")
        parts = []
        if query_embeds is not None:
            parts.append(query_embeds.to(self.layernorm.weight.dtype))
        if input_ids is not None:
            length, longest = input_ids.shape[1], self.position_embeddings.num_embeddings
            if position_ids is None and length > longest:
                raise ValueError(f"QFormer: input_ids has {length} tokens, at most {longest} positions exist")
            if position_ids is None:
                positions = self.position_embeddings.weight[:length]
            else:
                positions = self.position_embeddings(position_ids)
            parts.append(self.word_embeddings(input_ids) + positions)
        hidden = parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
        return self.dropout(self.layernorm(hidden))


class Layer(nn.Module):
    """Shared self-attention; for queries, cross-attention to the image; then a feed-forward for each kind."""

    def __init__(self, config: InstructBlipQFormerConfig, dropout: float, cross_attention: bool):
        super().__init__()
        self.has_cross_attention = cross_attention
        self.attention = Attention(config, dropout, config.hidden_size)
        if cross_attention:
            self.crossattention = Attention(config, dropout, config.encoder_hidden_size)
        self.intermediate = Intermediate(config)
        self.output = Output(config, dropout, config.intermediate_size)
        self.intermediate_query = Intermediate(config)
        self.output_query = Output(config, dropout, config.intermediate_size)

    def forward(
        self,
        hidden: Tensor,
        num_queries: int,
        mask: Tensor | None,
        image_kv: tuple[Tensor, Tensor] | None,
        queries_only: bool,
        attentions: list[Tensor] | None,
    ) -> Tensor:
        attend = self.attention.attention
        keys_values = attend.key(hidden), attend.value(hidden)
        if queries_only:
            hidden = hidden[:, :num_queries]
            if mask is not None and mask.shape[2] > 1:
                mask = mask[:, :, :num_queries]
        hidden = self.attention(hidden, keys_values, mask)
        if num_queries == 0:
            return self.output(self.intermediate(hidden), hidden)

        queries, text = hidden[:, :num_queries], hidden[:, num_queries:]
        if self.has_cross_attention:
            queries = self.crossattention(queries, image_kv, None, attentions)
        queries = self.output_query(self.intermediate_query(queries), queries)
        if text.shape[1] == 0:
            return queries
        return torch.cat([queries, self.output(self.intermediate(text), text)], dim=1)


class Attention(nn.Module):
    """Multi-head attention, residual, layer norm. Keys and values come from the caller, to reuse them."""

    def __init__(self, config: InstructBlipQFormerConfig, dropout: float, source_size: int):
        super().__init__()
        self.num_heads = config.num_attention_heads
        self.dropout = dropout
        self.attention = nn.Module()  # keeps the names `attention.attention.query`, ...
        self.attention.query = nn.Linear(config.hidden_size, config.hidden_size)
        self.attention.key = nn.Linear(source_size, config.hidden_size)
        self.attention.value = nn.Linear(source_size, config.hidden_size)
        self.output = Output(config, dropout, config.hidden_size)

    def forward(
        self,
        hidden: Tensor,
        keys_values: tuple[Tensor, Tensor],
        mask: Tensor | None,
        attentions: list[Tensor] | None = None,
    ) -> Tensor:
        query, key, value = (
            states.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)  # (batch, heads, positions, head size)
            for states in (self.attention.query(hidden), *keys_values)
        )
        if attentions is not None:
            scores = query.float() @ key.float().transpose(-1, -2) / query.shape[-1] ** 0.5
            attentions.append(scores.softmax(dim=-1))
        rate = self.dropout if self.training else 0.0
        context = _attend(query, key, value, mask, rate)
        return self.output(context.transpose(1, 2).flatten(2), hidden)


class Intermediate(nn.Module):
    """The first half of a feed-forward."""

    def __init__(self, config: InstructBlipQFormerConfig):
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.intermediate_size)
        self.activation = ACT2FN[config.hidden_act]

    def forward(self, hidden: Tensor) -> Tensor:
        return self.activation(self.dense(hidden))


class Output(nn.Module):
    """Projection back to the residual stream, with the layer norm after the sum as in BERT."""

    def __init__(self, config: InstructBlipQFormerConfig, dropout: float, size: int):
        super().__init__()
        self.dense = nn.Linear(size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(dropout)

    def forward(self, hidden: Tensor, residual: Tensor) -> Tensor:
        return self.LayerNorm(self.dropout(self.dense(hidden)) + residual)


def _attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, dropout: float) -> Tensor:
    if query.device.type == "cpu" and query.dtype == torch.bfloat16 and torch.is_grad_enabled():
        # torch's backward of attention on a CPU takes ten times as long in bf16 as in fp32 (torch 2.13).
        with torch.autocast("cpu", enabled=False):
            states = query.float(), key.float(), value.float()
            return F.scaled_dot_product_attention(*states, mask, dropout).to(query.dtype)
    return F.scaled_dot_product_attention(query, key, value, mask, dropout)


def _to_weights(states: Tensor, weight: Tensor) -> Tensor:
    # Under autocast the linear layers cast by themselves; outside of it, cached features may differ in dtype.
    return states if torch.is_autocast_enabled(states.device.type) else states.to(weight.dtype)
