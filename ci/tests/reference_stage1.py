"""Stage 1 as LAVIS computes it: the reference for the losses, the gradients and the speed of zvl's packed pass.

Its four calls of the Q-Former, in LAVIS's order: the queries (keeping the self-attention keys and values), the text
for ITC, triples for ITM, and the text for ITG that continues from the kept keys and values. Negatives are drawn in a
Python loop with `.item()`, every call computes the cross-attention keys and values of its rows anew, both directions
of ITC have a product of their own, and the vocabulary's logits are computed for padding too. It borrows the weights
of a QFormerForPretraining and none of its forward code, so that gradients can be compared by name. Tests import it as
`reference_stage1`; a benchmark does so too, once `ci/tests` stands in sys.path.

Source: salesforce/LAVIS, lavis/models/blip2_models/{blip2_qformer,Qformer}.py, and its soft targets for repeated
images from blip_models/blip_retrieval.py. Two departures: no dropout, so that results can be compared; and a batch of
one image has no matching loss, where LAVIS would call a pair its own mismatch.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from zvl.model.objectives import QFormerForPretraining

BLOCKED = -10_000.0  # added to the scores of positions that may not be seen
ATTENTIONS = ("eager", "sdpa")


class ReferenceStage1:
    """LAVIS's stage-1 losses on the weights of `model`; shapes as in QFormerForPretraining.forward.

    attention: "eager", as LAVIS runs it (scores, softmax and product as three kernels), or torch's "sdpa".
    autocast: None for the weights' own precision, or torch.float16 (LAVIS) or torch.bfloat16. The caller runs the
        ViT, under the same autocast if it wants LAVIS's timing.
    """

    def __init__(
        self, model: QFormerForPretraining, attention: str = "eager", autocast: torch.dtype | None = None
    ):
        if attention not in ATTENTIONS:
            raise ValueError(
                f"ReferenceStage1: attention {attention!r} is not one of {', '.join(ATTENTIONS)}"
            )
        self.model = model
        self.fused = attention == "sdpa"
        self.autocast = autocast
        self.layers = model.qformer.encoder.layer
        self.embeddings = model.qformer.embeddings
        self.num_heads = model.qformer.config.num_attention_heads

    def losses(
        self,
        image_embeds: Tensor,
        input_ids: Tensor,
        text_mask: Tensor,
        image_ids: Tensor,
        hard_negatives: bool = True,
        negatives: tuple[Tensor, Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """The losses itc, itm, itg and their sum; draws the negatives unless they are given."""
        device = input_ids.device.type
        with torch.autocast(device, self.autocast, enabled=self.autocast is not None):
            return self._losses(image_embeds, input_ids, text_mask, image_ids, hard_negatives, negatives)

    def _losses(self, image_embeds, input_ids, text_mask, image_ids, hard, negatives) -> dict[str, Tensor]:
        model, batch = self.model, len(input_ids)
        queries = model.query_tokens.expand(batch, -1, -1)
        num_queries = queries.shape[1]

        # ITC: queries alone (first call) and text alone (second call).
        image_hidden, kept = self.transform(self.embed(queries, None), num_queries, None, image_embeds)
        text_hidden, _ = self.transform(self.embed(None, input_ids), 0, self.padding_mask(text_mask))
        image_features = F.normalize(model.vision_projection(image_hidden), dim=-1)
        text_features = F.normalize(model.text_projection(text_hidden[:, 0]), dim=-1)
        to_text = (image_features[:, None] @ text_features[:, :, None])[..., 0]  # (images, texts, queries)
        to_text = to_text.max(dim=-1).values / model.temperature
        to_image = (text_features[:, None, None] @ image_features.transpose(1, 2)).squeeze(2)
        to_image = to_image.max(dim=-1).values / model.temperature  # (texts, images)
        same = image_ids[:, None] == image_ids
        targets = 0.9 * same.float() / same.float().sum(1, keepdim=True) + 0.1 / batch
        itc_text = -(F.log_softmax(to_text, dim=1) * targets).sum(1).mean()
        itc_image = -(F.log_softmax(to_image, dim=1) * targets).sum(1).mean()
        itc = (itc_text + itc_image) / 2

        # ITM (third call): each pair, each text with a foreign image, each image with a foreign text.
        itm = itc.new_zeros(())
        if not same.all():
            if negatives is None:
                negatives = self.draw(to_text.detach(), to_image.detach(), same, hard)
            foreign_images, foreign_texts = negatives
            images = torch.cat([image_embeds, image_embeds[foreign_images], image_embeds])
            texts = torch.cat([input_ids, input_ids, input_ids[foreign_texts]])
            masks = torch.cat([text_mask, text_mask, text_mask[foreign_texts]])
            queries = model.query_tokens.expand(3 * batch, -1, -1)
            seen = torch.cat([torch.ones(3 * batch, num_queries, device=masks.device), masks.float()], dim=1)
            hidden, _ = self.transform(
                self.embed(queries, texts), num_queries, self.padding_mask(seen), images
            )
            matching = model.itm_head(hidden[:, :num_queries]).mean(dim=1)
            labels = torch.cat([torch.ones(batch), torch.zeros(2 * batch)]).long().to(masks.device)
            itm = F.cross_entropy(matching.float(), labels)

        # ITG (fourth call): the text starts with [DEC] and continues from what the queries left behind.
        decoder_ids = input_ids.clone()
        decoder_ids[:, 0] = model.decoder_start_id
        length = input_ids.shape[1]
        earlier = torch.ones(length, length, device=text_mask.device).tril() * text_mask[:, None, :]
        seen = torch.cat([earlier.new_ones(batch, length, num_queries), earlier], dim=2)
        mask = (1 - seen)[:, None] * BLOCKED
        hidden, _ = self.transform(self.embed(None, decoder_ids), 0, mask, past=kept)
        words = self.predict(hidden)[:, :-1].contiguous()
        next_words = input_ids.masked_fill(~text_mask, -100)[:, 1:].contiguous()
        itg = F.cross_entropy(words.flatten(0, 1), next_words.flatten(), label_smoothing=0.1)

        return {"loss": itc + itm + itg, "itc": itc, "itm": itm, "itg": itg}

    @staticmethod
    def draw(to_text: Tensor, to_image: Tensor, same: Tensor, hard: bool) -> tuple[Tensor, Tensor]:
        """One foreign image a text and one foreign text an image, row by row."""
        batch, drawn = len(same), ([], [])
        for scores, indices in zip((to_image, to_text), drawn, strict=True):
            scores = scores.float() if hard else torch.zeros_like(same, dtype=torch.float32)
            weights = F.softmax(scores.masked_fill(same, BLOCKED), dim=1)
            for row in range(batch):
                indices.append(torch.multinomial(weights[row], 1).item())
        return tuple(torch.tensor(indices, device=same.device) for indices in drawn)

    @staticmethod
    def padding_mask(text_mask: Tensor) -> Tensor:
        """(batch, length) of real tokens -> (batch, 1, 1, length), added to the scores."""
        return (1 - text_mask.float())[:, None, None, :] * BLOCKED

    def embed(self, queries: Tensor | None, input_ids: Tensor | None) -> Tensor:
        parts = [] if queries is None else [queries]
        if input_ids is not None:
            positions = torch.arange(input_ids.shape[1], device=input_ids.device)
            words = self.embeddings.word_embeddings(input_ids)
            parts.append(words + self.embeddings.position_embeddings(positions))
        return self.embeddings.layernorm(torch.cat(parts, dim=1))

    def transform(
        self,
        hidden: Tensor,
        num_queries: int,
        mask: Tensor | None,
        image_embeds: Tensor | None = None,
        past: list[tuple[Tensor, Tensor]] | None = None,
    ) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        """All layers. Returns the hidden states and each layer's self-attention keys and values."""
        kept = []
        if self.fused and mask is not None:
            mask = mask == 0  # a boolean mask needs no dtype of its own
        for number, layer in enumerate(self.layers):
            before = None if past is None else past[number]
            hidden, keys_values = self.attend(layer.attention, hidden, hidden, mask, before)
            kept.append(keys_values)
            queries, text = hidden[:, :num_queries], hidden[:, num_queries:]
            if num_queries:
                if layer.has_cross_attention:
                    queries, _ = self.attend(layer.crossattention, queries, image_embeds, None)
                queries = self.feed_forward(layer.intermediate_query, layer.output_query, queries)
            if text.shape[1]:
                text = self.feed_forward(layer.intermediate, layer.output, text)
            hidden = torch.cat([queries, text], dim=1) if num_queries else text
        return hidden, kept

    def attend(self, block, hidden, source, mask, past=None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        query = self.split_heads(block.attention.query(hidden))
        key = self.split_heads(block.attention.key(source))
        value = self.split_heads(block.attention.value(source))
        keys_values = key, value
        if past is not None:
            key, value = torch.cat([past[0], key], dim=2), torch.cat([past[1], value], dim=2)
        if self.fused:
            context = F.scaled_dot_product_attention(query, key, value, mask)
        else:
            scores = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])
            if mask is not None:
                scores = scores + mask
            context = scores.softmax(dim=-1) @ value
        context = context.transpose(1, 2).flatten(2)
        return block.output.LayerNorm(block.output.dense(context) + hidden), keys_values

    def split_heads(self, states: Tensor) -> Tensor:
        batch, length, width = states.shape
        return states.view(batch, length, self.num_heads, width // self.num_heads).transpose(1, 2)

    @staticmethod
    def feed_forward(intermediate, output, hidden: Tensor) -> Tensor:
        return output.LayerNorm(output.dense(F.gelu(intermediate.dense(hidden))) + hidden)

    def predict(self, hidden: Tensor) -> Tensor:
        head = self.model.lm_head
        hidden = head.layernorm(F.gelu(head.dense(hidden)))
        return F.linear(hidden, self.embeddings.word_embeddings.weight, head.bias)
