"""zvl: the Ziya-Visual series, from pictures to a bilingual chat model, in notebooks that run anywhere."""

__version__ = "0.1.0"
