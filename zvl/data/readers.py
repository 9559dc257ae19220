"""Raw formats of the field, read into `Pair` and `Sample`: the readers of all families, in one place to import from.

A row that cannot be used is put aside with its reason and counted, never fatal and never lost; a file that
cannot be used at all raises `DataError`, which names the file and what is wrong in it.
"""

from zvl.data.captions import (
    read_ai_challenger,
    read_coco_captions,
    read_coco_cn,
    read_flickr30k,
    read_flickr30k_cna,
    read_karpathy,
    read_nocaps,
    read_textcaps,
)
from zvl.data.conversations import read_llava, read_qwen_vl, read_svit
from zvl.data.grit import read_grit
from zvl.data.grounding import read_refcoco, read_visual_genome_references, read_visual_genome_regions
from zvl.data.llava_bench import read_llava_bench
from zvl.data.m3it import read_m3it
from zvl.data.rows import DataError, Quarantine
from zvl.data.scienceqa import read_scienceqa
from zvl.data.vcr import read_vcr
from zvl.data.vqa import (
    read_clevr,
    read_gqa,
    read_ocr_vqa,
    read_okvqa,
    read_textvqa,
    read_vizwiz,
    read_vqav2,
)
from zvl.data.webpairs import read_cc3m, read_cc12m, read_laion, read_own_pairs, read_sbu, read_wukong

__all__ = [
    "DataError",
    "Quarantine",
    "read_ai_challenger",
    "read_cc3m",
    "read_cc12m",
    "read_clevr",
    "read_coco_captions",
    "read_coco_cn",
    "read_flickr30k",
    "read_flickr30k_cna",
    "read_gqa",
    "read_grit",
    "read_karpathy",
    "read_laion",
    "read_llava",
    "read_llava_bench",
    "read_m3it",
    "read_nocaps",
    "read_ocr_vqa",
    "read_okvqa",
    "read_own_pairs",
    "read_qwen_vl",
    "read_refcoco",
    "read_sbu",
    "read_scienceqa",
    "read_svit",
    "read_textcaps",
    "read_textvqa",
    "read_vcr",
    "read_visual_genome_references",
    "read_visual_genome_regions",
    "read_vizwiz",
    "read_vqav2",
    "read_wukong",
]
