"""Image-text contrast (ITC), matching (ITM) and generation (ITG): the objectives that pre-train the Q-Former.

Source: BLIP-2, section 3.2; Ziya-Visual, sections 3.2 to 3.3 and Figure 2. ITC and ITG share one pass under a
block mask; ITM needs a second one, because its negatives come from ITC's similarities. Where several processes train
together, ITC and ITM's negatives go over the joint batch of all (`zvl.model.gather`); `zvl.training.contrast` extends
the batch over the micro-batches of a step.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import InstructBlipQFormerConfig

from zvl.model import gather
from zvl.model.collapse import query_similarity
from zvl.model.qformer import QFormer, bidirectional_mask, block_mask, select_kv

LABEL_SMOOTHING = 0.1
TEMPERATURES = (0.01, 0.5)  # the range that ITC's temperature is held in
IGNORED = -100  # the label of rows that count in no loss, as in torch's cross_entropy

# ITM sees one match to two mismatches. A head that learned only this ratio has exactly this loss, 0.6365.
ITM_PRIOR_ENTROPY = -(math.log(1 / 3) / 3 + 2 * math.log(2 / 3) / 3)

ALL_ROWS = slice(None)


@dataclass(frozen=True)
class WholeBatch:
    """What the whole batch of a step says to one of its micro-batches; `zvl.training.contrast` makes it.

    The whole batch has `total` pairs: `micros` micro-batches of `batch` pairs in each process.
    itc, itc_accuracy: scalars of the whole batch, without gradient.
    image_gradient (batch, queries, projection_dim), text_gradient (batch, projection_dim): of ITC, times `micros`,
        because a step takes the mean of its micro-batches.
    temperature_gradient: scalar, of ITC.
    image_embeds: (micros * batch, patches, encoder_hidden_size), all pictures of this process.
    texts: (total, length), token numbers, and -1 where there is padding.
    negative_images, negative_texts: (batch,) row numbers in the whole batch, -1 where there is no negative.
    words: scalar, labels of ITG in a micro-batch on average.
    """

    itc: Tensor
    itc_accuracy: Tensor
    image_gradient: Tensor
    text_gradient: Tensor
    temperature_gradient: Tensor
    image_embeds: Tensor
    texts: Tensor
    negative_images: Tensor
    negative_texts: Tensor
    words: Tensor


def itc_loss(logits: Tensor, image_ids: Tensor, rows: slice = ALL_ROWS) -> Tensor:
    """Cross-entropy from images to texts and from texts to images, averaged, with label smoothing 0.1.

    logits: (batch, batch), similarity of image i and text j divided by the temperature.
    image_ids: (batch,). Where an image occurs more than once, its texts share the target equally.
    rows: the images and texts whose losses are averaged: those of one process, for example.
    """
    same = (image_ids[rows, None] == image_ids).to(logits.dtype)
    targets = same / same.sum(dim=1, keepdim=True)
    to_text = F.cross_entropy(logits[rows], targets, label_smoothing=LABEL_SMOOTHING)
    to_image = F.cross_entropy(logits.T[rows], targets, label_smoothing=LABEL_SMOOTHING)
    return (to_text + to_image) / 2


@torch.no_grad()
def itc_accuracy(logits: Tensor, image_ids: Tensor, rows: slice = ALL_ROWS) -> Tensor:
    """How often the nearest text or image is of the same image, both directions; arguments as of `itc_loss`."""
    to_text = image_ids[logits[rows].argmax(dim=1)] == image_ids[rows]
    to_image = image_ids[logits.T[rows].argmax(dim=1)] == image_ids[rows]
    return (to_text.float().mean() + to_image.float().mean()) / 2


@torch.no_grad()
def sample_negatives(
    similarity: Tensor,
    image_ids: Tensor,
    hard: bool = True,
    generator: torch.Generator | None = None,
    rows: slice = ALL_ROWS,
) -> tuple[Tensor, Tensor]:
    """Draw for each text an image, and for each image a text, that do not belong to it.

    similarity: (batch, batch), images by texts, divided by the temperature.
    image_ids: (batch,). Pairs of the same image are never drawn.
    hard: draw by the softmax of the similarities (BLIP-2); otherwise uniformly.
    rows: the texts and images to draw for, out of the batch; what is drawn comes from everywhere.

    Returns (negative_images, negative_texts), each (rows,) of row numbers. If all pairs of the batch are of
    one image (a batch of one row, for example), there is no negative, and both are -1 throughout.
    """
    same = image_ids[rows, None] == image_ids
    # A NaN would make multinomial raise (or stop a GPU for good); it stays in the losses, where the loop looks for it.
    scores = similarity.float().nan_to_num() if hard else torch.zeros_like(similarity, dtype=torch.float32)
    # Text to image first, image to text second; one draw for both, of which the host hears nothing.
    scores = torch.cat([scores.T[rows], scores[rows]]).masked_fill(same.repeat(2, 1), -torch.inf)
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


def itg_loss(logits: Tensor, labels: Tensor, words: Tensor | None = None) -> Tensor:
    """Next-token cross-entropy with label smoothing 0.1.

    logits: (..., vocab_size), labels: (...), already shifted; -100 is ignored. Zero if every label is -100.
    words: what to divide the sum by; by default the labels that count.
    """
    return _mean_cross_entropy(logits.flatten(0, -2), labels.flatten(), LABEL_SMOOTHING, words)


def _mean_cross_entropy(
    logits: Tensor, labels: Tensor, label_smoothing: float = 0.0, number: Tensor | None = None
) -> Tensor:
    # torch's own mean is NaN where nothing counts, as with a batch of one image or of empty captions.
    total = F.cross_entropy(
        logits.float(), labels, reduction="sum", ignore_index=IGNORED, label_smoothing=label_smoothing
    )
    number = (labels != IGNORED).sum().clamp(min=1) if number is None else number
    return total / number


def texts_of(input_ids: Tensor, text_mask: Tensor) -> Tensor:
    """Token numbers and padding in one tensor (batch, length), -1 for padding: what processes exchange."""
    return input_ids.masked_fill(~text_mask, -1)


def words_of(texts: Tensor) -> Tensor:
    """How many labels ITG has in `texts_of`, at least 1: every real token but the first."""
    return (texts[:, 1:] >= 0).sum().clamp(min=1)


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
        whole: WholeBatch | None = None,
        wrong_texts: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """The three losses of a batch of pairs and their unweighted sum.

        image_ids: (batch,) long; rows with equal ids show the same image, never each other's negatives.
        hard_negatives: ITM's negatives by similarity, otherwise uniform.
        generator: source of the draws, on the device of the similarities.
        whole: these pairs are a micro-batch of it. ITC then has the whole batch's value and gradient, ITM the
            negatives that were drawn there, and ITG divides by its words; hard_negatives and generator are not
            used, and texts are as long as the whole batch's.
        wrong_texts: (batch, at most length), captions known to be wrong of the row's image, as token numbers with -1
            for padding; a row of -1 alone has none. They take the place of ITM's foreign texts (hard captions as in
            NegCLIP, Yuksekgonul et al. 2023); not together with `whole`.

        Returns scalars: loss, itc, itm, itg; without gradient itc_accuracy (both directions), itm_accuracy,
        what `query_similarity` tells of the queries, temperature and temperature_clamped.
        Raises ValueError for both whole and wrong_texts.
        A batch of one image has no negatives: its itm is 0 with zero gradient, and so is itm_accuracy.

        Several processes, with equally many pairs each, train on their joint batch: ITC contrasts all with all,
        negatives come from all, ITG's mean is over all words. The mean of the processes' losses and of their
        gradients, which DDP takes, is then that of one process with the joint batch.
        """
        if whole is not None and wrong_texts is not None:
            raise ValueError("QFormerForPretraining: wrong_texts and whole exclude each other")
        text_mask = text_mask.bool()
        if whole is None:
            input_ids, text_mask = gather.pad_alike(input_ids, text_mask)
        image_kv = self.qformer.keys_values(image_embeds)
        queries, itc_text, itg_text = self._contrast_and_generate(image_kv, input_ids, text_mask)
        image_features, text_features = self._image_features(queries), self._text_features(itc_text)

        if whole is None:
            rows, joint_ids = gather.own_rows(len(image_ids)), gather.all_gather(image_ids)
            logits = self.joint_logits(image_features, text_features)
            itc, accuracy = itc_loss(logits, joint_ids, rows), itc_accuracy(logits.detach(), joint_ids, rows)
            negatives = sample_negatives(logits, joint_ids, hard_negatives, generator, rows)
            pictures, texts = image_embeds, gather.all_gather(texts_of(input_ids, text_mask))
            words = words_of(texts) / gather.processes()
        else:
            itc, accuracy = self._itc_of_whole(whole, image_features, text_features), whole.itc_accuracy
            negatives = whole.negative_images, whole.negative_texts
            pictures, texts, words = whole.image_embeds, whole.texts, whole.words

        foreign_texts = texts.index_select(0, negatives[1].clamp(min=0))
        if wrong_texts is not None:
            known = (wrong_texts >= 0).any(dim=1)
            longer = F.pad(wrong_texts, (0, foreign_texts.shape[1] - wrong_texts.shape[1]), value=-1)
            foreign_texts = torch.where(known[:, None], longer, foreign_texts)
            negatives = negatives[0], torch.where(known, 0, negatives[1])
        images = negatives[0].clamp(min=0)
        if whole is None and gather.processes() == 1:
            foreign_kv = select_kv(image_kv, images)
        else:
            foreign_kv = self.qformer.keys_values(gather.fetch(pictures, images))
        matching = self._match_logits(image_kv, foreign_kv, input_ids, text_mask, foreign_texts)
        labels = itm_labels(*negatives)
        itm = itm_loss(matching, labels)

        hidden, targets = itg_text[:, :-1], input_ids[:, 1:].masked_fill(~text_mask[:, 1:], IGNORED)
        if hidden.device.type == "cpu" and not torch.compiler.is_compiling():
            # The vocabulary is wide: compute no logits for padding. A GPU computes them, 1% of a step where half of
            # the text is padding, because to leave them out the host would have to wait for their number.
            real = targets != IGNORED
            hidden, targets = hidden[real], targets[real]
        itg = itg_loss(self._word_logits(hidden), targets, words)

        return {
            "loss": itc + itm + itg,
            "itc": itc,
            "itm": itm,
            "itg": itg,
            "itc_accuracy": accuracy,
            "itm_accuracy": _itm_accuracy(matching.detach(), labels),
            **query_similarity(queries),
            **self.temperature_state(),
        }

    @torch.no_grad()
    def temperature_state(self) -> dict[str, Tensor]:
        """The temperature in use, and 1.0 where it is held at an end of its range (0.0 where not)."""
        inside = (TEMPERATURES[0] < self.temperature) & (self.temperature < TEMPERATURES[1])
        return {"temperature": self._temperature(), "temperature_clamped": 1.0 - inside.float()}

    def contrast_features(
        self, image_embeds: Tensor, input_ids: Tensor, text_mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """ITC's features as `forward` computes them, to the bit and with the same dropout for the same random state
        (under torch.compile, which rounds elsewhere, to within rounding).

        Returns (batch, queries, projection_dim) and (batch, projection_dim). `image_features` and `text_features`
        are the same mathematics in a pass each, for retrieval.
        """
        image_kv = self.qformer.keys_values(image_embeds)
        queries, itc_text, _ = self._contrast_and_generate(image_kv, input_ids, text_mask.bool())
        return self._image_features(queries), self._text_features(itc_text)

    def joint_logits(self, image_features: Tensor, text_features: Tensor, chunk: int | None = None) -> Tensor:
        """Similarities of all images and texts of all processes, divided by the temperature: (total, total).

        image_features: (rows, queries, projection_dim), text_features: (rows, projection_dim) of this process.
        chunk: images at a time whose similarity by query is held in memory, and computed anew for the gradient.
        """
        texts = gather.all_gather(text_features)
        if chunk is None:
            rows = self.similarity(image_features, texts)
        else:
            options = {"use_reentrant": False, "preserve_rng_state": False}
            parts = image_features.split(chunk)
            rows = torch.cat([checkpoint(self.similarity, part, texts, **options) for part in parts])
        return gather.all_gather(rows / self._temperature())

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

    def _itc_of_whole(self, whole: WholeBatch, image_features: Tensor, text_features: Tensor) -> Tensor:
        """The whole batch's ITC: its value, and the gradient that reaches it through these features."""
        slope = (image_features * whole.image_gradient).sum() + (text_features * whole.text_gradient).sum()
        slope = slope + self.temperature * whole.temperature_gradient
        return whole.itc + (slope - slope.detach())

    def _match_logits(self, image_kv, foreign_kv, input_ids, text_mask, foreign_texts) -> Tensor:
        """ITM's logits (3 * batch, 2): pairs, texts with foreign images, images with foreign texts."""
        masks = torch.cat([text_mask, text_mask, foreign_texts >= 0])
        hidden = self.qformer(
            self.query_tokens.expand(len(masks), -1, -1),
            torch.cat([input_ids, input_ids, foreign_texts.clamp(min=0)]),
            bidirectional_mask(masks, self.query_tokens.shape[1]),
            image_kv=[
                (torch.cat([key, foreign_key, key]), torch.cat([value, foreign_value, value]))
                for (key, value), (foreign_key, foreign_value) in zip(image_kv, foreign_kv, strict=True)
            ],
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
        return temperature + (temperature.clamp(*TEMPERATURES) - temperature).detach()


@torch.no_grad()
def _itm_accuracy(logits: Tensor, labels: Tensor) -> Tensor:
    counted = labels != IGNORED
    return ((logits.argmax(dim=1) == labels) & counted).sum() / counted.sum().clamp(min=1)
