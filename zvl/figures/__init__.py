"""The tutorial's figures.

Every function returns a matplotlib Figure made by pyplot: `plt.show()` shows it, `figure.savefig(path)`
keeps it.
"""

from zvl.figures.charts import ITM_PRIOR, bars_with_intervals, loss_curves
from zvl.figures.diagrams import Stage, parameter_table, show_mask, show_masks, stage_diagram
from zvl.figures.pictures import Case, Exchange, attention_overlay, case_gallery, show_scenes
from zvl.figures.style import use_cjk_font
from zvl.figures.watching import watching

__all__ = [
    "ITM_PRIOR",
    "Case",
    "Exchange",
    "Stage",
    "attention_overlay",
    "bars_with_intervals",
    "case_gallery",
    "loss_curves",
    "parameter_table",
    "show_mask",
    "show_masks",
    "show_scenes",
    "stage_diagram",
    "use_cjk_font",
    "watching",
]
