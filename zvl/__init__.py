"""zvl: the Ziya-Visual series, from pictures to a bilingual chat model, in notebooks that run anywhere."""

import os
import warnings

__version__ = "0.1.0"

# Libraries below import tqdm.auto, which asks every notebook without ipywidgets to install them; no bar here is one.
warnings.filterwarnings("ignore", message="IProgress not found")

# oneDNN keeps what it compiles for the last 1,024 shapes, some 10 MB for each length that a batch of text can have; two
# hundred serve one kind of batch and leave the memory to the models. It reads this when the first product is computed.
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "200")
