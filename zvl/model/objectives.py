"""Image-text contrast (ITC), matching (ITM) and generation (ITG): the objectives that pre-train the Q-Former.

Source: BLIP-2, section 3.2; Ziya-Visual, sections 3.2 to 3.3 and Figure 2. ITC and ITG share one pass under a
block mask; ITM needs a second one, because its negatives come from ITC's similarities.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import InstructBlipQFormerConfig

from zvl.model.qformer import QFormer, bidirectional_mask, block_mask, select_kv

LABEL_SMOOTHING = 0.1
IGNORED = -100  # the label of rows that count in no loss, as in torch's cross_entropy

# ITM sees one match to two mismatches. A head that learned only this ratio has exactly this loss, 0.6365.
ITM_PRIOR_ENTROPY = -(math.log(1 / 3) / 3 + 2 * math.log(2 / 3) / 3)


def itc_loss(logits: Tensor, image_ids: Tensor) -> Tensor:
    """Cross-entropy from images to texts and from texts to images, averaged, with label smoothing 0.1.

    logits: (batch, batch), similarity of image i and text j divided by the temperature.
    image_ids: (batch,). Where an image occurs more than once, its texts share the target equally.
    """
    same = (image_ids[:, None] == image_ids).to(logits.dtype)
    targets = same / same.sum(dim=1, keepdim=True)
    to_text = F.cross_entropy(logits, targets, label_smoothing=LABEL_SMOOTHING)
    to_image = F.cross_entropy(logits.T, targets, label_smoothing=LABEL_SMOOTHING)
    return (to_text + to_image) / 2


@torch.no_grad()
def sample_negatives(
    similarity: Tensor, image_ids: Tensor, hard: bool = True, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """Draw for each text an image, and for each image a text, that do not belong to it.

    similarity: (batch, batch), images by texts, divided by the temperature.
    image_ids: (batch,). Pairs of the same image are never drawn.
    hard: draw by the softmax of the similarities (BLIP-2); otherwise uniformly.

    Returns (negative_images, negative_texts), each (batch,) of row numbers. If all pairs of the batch are of
    one image (a batch of one row, for example), there is no negative, and both are -1 throughout.
    """
    same = image_ids[:, None] == image_ids
    scores = similarity.float() if hard else torch.zeros_like(similarity, dtype=torch.float32)
    # Text to image first, image to text second; one draw for both.
    scores = torch.cat([scores.T, scores]).masked_fill(same.repeat(2, 1), -torch.inf)
    lacking = same.all(dim=1).repeat(2)  # softmax of such a row would be NaN, which multinomial refuses
    weights = scores.masked_fill(lacking[:, None], 0.0).softmax(dim=1)
    drawn = torch.multinomial(weights, 1, generator=generator).squeeze(1).masked_fill(lacking, -1)
    negative_images, negative_texts = drawn.chunk(2)
    return negative_images, negative_texts


def itm_labels(negative_images: Tensor, negative_texts: Tensor) -> Tensor:
    """(3 * batch,): 1 for matches, then 0 for both kinds of mismatches; all -100 without negatives."""
    negatives = torch.cat([negative_images, negative_images, negative_texts])
    labels = torch.zeros_like(negatives)
    labels[: len(negative_images)] = 1
    return labels.masked_fill(negatives < 0, IGNORED)


def itm_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of match and mismatch: logits (rows, 2), labels (rows,). Zero if every label is -100."""
    return _mean_cross_entropy(logits, labels)


def itg_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Next-token cross-entropy with label smoothing 0.1.

    logits: (..., vocab_size), labels: (...), already shifted; -100 is ignored. Zero if every label is -100.
    """
    return _mean_cross_entropy(logits.flatten(0, -2), labels.flatten(), LABEL_SMOOTHING)


def _mean_cross_entropy(logits: Tensor, labels: Tensor, label_smoothing: float = 0.0) -> Tensor:
    # torch's own mean is NaN where nothing counts, as with a batch of one image or of empty captions.
    total = F.cross_entropy(
        logits.float(), labels, reduction="sum", ignore_index=IGNORED, label_smoothing=label_smoothing
    )
    return total / (labels != IGNORED).sum().clamp(min=1)


def itm_stuck(history: Sequence[float], window: int = 50, tolerance: float = 0.01) -> bool:
    """The alarm: has ITM's loss rested at the entropy of its 1:2 prior during the last `window` entries?

    history: ITM losses in the order of training. Both halves of the window must have a mean within
    `tolerance` of 0.6365, so that a loss that only passes by raises no alarm; fewer entries raise none.
    """
    if window < 2:
        raise ValueError(f"itm_stuck: window is {window}, must be at least 2")
    if len(history) < window:
        return False
    recent, half = list(history[-window:]), window // 2
    means = sum(recent[:half]) / half, sum(recent[half:]) / (window - half)
    return all(abs(mean - ITM_PRIOR_ENTROPY) < tolerance for mean in means)


class LanguageHead(nn.Module):
    """BERT's prediction head: dense, GELU, layer norm, then the word embeddings themselves as the decoder."""

    def __init__(self, config: InstructBlipQFormerConfig):
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))

    def forward(self, hidden: Tensor, word_embeddings: Tensor) -> Tensor:
        """hidden (..., hidden_size), word_embeddings (vocab_size, hidden_size); returns (..., vocab_size)."""
        return F.linear(self.layernorm(F.gelu(self.dense(hidden))), word_embeddings, self.bias)


class QFormerForPretraining(nn.Module):
    """The Q-Former with its learned queries and the heads of ITC, ITM and ITG. Source: BLIP-2, section 3.2.

    qformer_config: transformers' InstructBlipQFormerConfig (its dropout rates are not used).
    num_queries: learned queries an image (64 in the paper).
    projection_dim: width of the contrastive space.
    decoder_start_id: token that replaces a text's first one for ITG, `[DEC]`.
    dropout: one rate for the whole Q-Former; off by default.

    Everywhere: image_embeds (batch, patches, encoder_hidden_size); input_ids (batch, length), first token
    `[CLS]`; text_mask (batch, length), True for real tokens, padding on the right.
    """

    def __init__(
        self,
        qformer_config: InstructBlipQFormerConfig,
        num_queries: int,
        projection_dim: int = 256,
        *,
        decoder_start_id: int,
        dropout: float = 0.0,
    ):
        super().__init__()
        if not 0 <= decoder_start_id < qformer_config.vocab_size:
            raise ValueError(
                f"QFormerForPretraining: decoder_start_id {decoder_start_id} lies outside the vocabulary, "
                f"0 to {qformer_config.vocab_size - 1}"
            )
        hidden_size = qformer_config.hidden_size
        self.decoder_start_id = decoder_start_id
        self.query_tokens = nn.Parameter(
            torch.randn(1, num_queries, hidden_size) * qformer_config.initializer_range
        )
        self.qformer = QFormer(qformer_config, dropout)
        self.vision_projection = nn.Linear(hidden_size, projection_dim)
        self.text_projection = nn.Linear(hidden_size, projection_dim)
        self.itm_head = nn.Linear(hidden_size, 2)
        self.lm_head = LanguageHead(qformer_config)
        self.temperature = nn.Parameter(torch.tensor(0.07))
        for linear in (self.vision_projection, self.text_projection, self.itm_head, self.lm_head.dense):
            nn.init.normal_(linear.weight, std=qformer_config.initializer_range)
            nn.init.zeros_(linear.bias)

    def forward(
        self,
        image_embeds: Tensor,
        input_ids: Tensor,
        text_mask: Tensor,
        image_ids: Tensor,
        hard_negatives: bool = True,
        generator: torch.Generator | None = None,
    ) -> dict[str, Tensor]:
        """The three losses of a batch of pairs and their unweighted sum.

        image_ids: (batch,) long; rows with equal ids show the same image, never each other's negatives.
        hard_negatives: ITM's negatives by similarity, otherwise uniform.
        generator: source of the draws, on the device of the similarities.

        Returns scalars: loss, itc, itm, itg; without gradient itc_accuracy (both directions), itm_accuracy.
        A batch of one image has no negatives: its itm is 0 with zero gradient, and so is itm_accuracy.
        """
        text_mask = text_mask.bool()
        image_kv = self.qformer.keys_values(image_embeds)
        queries, itc_text, itg_text = self._contrast_and_generate(image_kv, input_ids, text_mask)

        image_features, text_features = self._image_features(queries), self._text_features(itc_text)
        logits = self.similarity(image_features, text_features) / self._temperature()
        itc = itc_loss(logits, image_ids)

        negatives = sample_negatives(logits, image_ids, hard_negatives, generator)
        matching = self._match_logits(image_kv, input_ids, text_mask, *negatives)
        labels = itm_labels(*negatives)
        itm = itm_loss(matching, labels)

        targets = input_ids[:, 1:].masked_fill(~text_mask[:, 1:], IGNORED)
        real = targets != IGNORED  # the vocabulary is wide: compute no logits for padding
        itg = itg_loss(self._word_logits(itg_text[:, :-1][real]), targets[real])

        return {
            "loss": itc + itm + itg,
            "itc": itc,
            "itm": itm,
            "itg": itg,
            "itc_accuracy": _itc_accuracy(logits.detach(), image_ids),
            "itm_accuracy": _itm_accuracy(matching.detach(), labels),
        }

    def queries(
        self, image_embeds: Tensor, input_ids: Tensor | None = None, text_mask: Tensor | None = None
    ) -> Tensor:
        """Last hidden states of the queries (batch, queries, hidden_size); text is an instruction."""
        image_kv = self.qformer.keys_values(image_embeds)
        return self.qformer(
            *self._queries_and_text(image_embeds, input_ids, text_mask), None, None, image_kv, True
        )

    def cross_attention(
        self, image_embeds: Tensor, input_ids: Tensor | None = None, text_mask: Tensor | None = None
    ) -> Tensor:
        """What queries look at: (batch, cross-attention layers, heads, queries, patches), rows sum to 1."""
        return self.qformer.cross_attention(
            *self._queries_and_text(image_embeds, input_ids, text_mask), image_embeds=image_embeds
        )

    def image_features(self, image_embeds: Tensor) -> Tensor:
        """Each query's normalised features in ITC's space (batch, queries, projection_dim), fp32."""
        return self._image_features(self.queries(image_embeds))

    def text_features(self, input_ids: Tensor, text_mask: Tensor) -> Tensor:
        """Normalised features of `[CLS]` in the contrastive space: (batch, projection_dim), fp32."""
        return self._text_features(self.qformer(input_ids=input_ids, attention_mask=text_mask))

    @staticmethod
    def similarity(image_features: Tensor, text_features: Tensor) -> Tensor:
        """Cosine of each text and the query nearest to it.

        image_features: (images, queries, projection_dim), text_features: (texts, projection_dim).
        Returns (images, texts) in [-1, 1].
        """
        # Divided by the temperature, rounding to bf16 would be worth 0.05 in a logit: leave autocast.
        with torch.autocast(image_features.device.type, enabled=False):
            similarity = image_features @ text_features.T  # (images, queries, texts)
            return similarity.amax(dim=1)

    def match(self, image_embeds: Tensor, input_ids: Tensor, text_mask: Tensor) -> Tensor:
        """ITM's logit for match minus that for mismatch of each row's image and text: (batch,), fp32."""
        logits = self._itm_head(self.queries(image_embeds, input_ids, text_mask))
        return logits[:, 1] - logits[:, 0]

    def _contrast_and_generate(self, image_kv, input_ids, text_mask) -> tuple[Tensor, Tensor, Tensor]:
        batch, length = input_ids.shape
        num_queries = self.query_tokens.shape[1]
        decoder_ids = input_ids.clone()
        decoder_ids[:, 0] = self.decoder_start_id
        hidden = self.qformer(
            self.query_tokens.expand(batch, -1, -1),
            torch.cat([input_ids, decoder_ids], dim=1),
            block_mask(text_mask, num_queries),
            torch.arange(length, device=input_ids.device).repeat(2)[None],  # both copies start at position 0
            image_kv=image_kv,
        )
        return hidden.split([num_queries, length, length], dim=1)

    def _match_logits(self, image_kv, input_ids, text_mask, negative_images, negative_texts) -> Tensor:
        rows = torch.arange(len(input_ids), device=input_ids.device)
        images = torch.cat([rows, negative_images.clamp(min=0), rows])
        texts = torch.cat([rows, rows, negative_texts.clamp(min=0)])
        hidden = self.qformer(
            self.query_tokens.expand(len(texts), -1, -1),
            input_ids[texts],
            bidirectional_mask(text_mask[texts], self.query_tokens.shape[1]),
            image_kv=select_kv(image_kv, images),
            queries_only=True,
        )
        return self._itm_head(hidden)

    def _queries_and_text(
        self, image_embeds, input_ids, text_mask
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        queries = self.query_tokens.expand(len(image_embeds), -1, -1)
        if input_ids is None:
            return queries, None, None
        if text_mask is None:
            raise ValueError(
                "QFormerForPretraining: input_ids need text_mask (True for real tokens), it is None"
            )
        return queries, input_ids, bidirectional_mask(text_mask, queries.shape[1])

    def _image_features(self, queries: Tensor) -> Tensor:
        return F.normalize(self.vision_projection(queries).float(), dim=-1)

    def _text_features(self, text: Tensor) -> Tensor:
        return F.normalize(self.text_projection(text[:, 0]).float(), dim=-1)

    def _itm_head(self, queries: Tensor) -> Tensor:
        # The head is linear: the mean of its logits over the queries is its logit of the mean query.
        return self.itm_head(queries.mean(dim=1)).float()

    def _word_logits(self, hidden: Tensor) -> Tensor:
        return self.lm_head(hidden, self.qformer.embeddings.word_embeddings.weight)

    def _temperature(self) -> Tensor:
        # The value is clamped, the gradient is not: a temperature that left the range can come back.
        temperature = self.temperature.float()
        return temperature + (temperature.clamp(0.01, 0.5) - temperature).detach()


@torch.no_grad()
def _itc_accuracy(logits: Tensor, image_ids: Tensor) -> Tensor:
    to_text = image_ids[logits.argmax(dim=1)] == image_ids
    to_image = image_ids[logits.argmax(dim=0)] == image_ids
    return (to_text.float().mean() + to_image.float().mean()) / 2


@torch.no_grad()
def _itm_accuracy(logits: Tensor, labels: Tensor) -> Tensor:
    counted = labels != IGNORED
    return ((logits.argmax(dim=1) == labels) & counted).sum() / counted.sum().clamp(min=1)
