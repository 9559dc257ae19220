"""zvl: the Ziya-Visual series, from pictures to a bilingual chat model, in notebooks that run anywhere."""

import warnings

__version__ = "0.1.0"

# Libraries below import tqdm.auto, which asks every notebook without ipywidgets to install them; no bar here is one.
warnings.filterwarnings("ignore", message="IProgress not found")
