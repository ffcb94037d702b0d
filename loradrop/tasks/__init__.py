from loradrop.extras import require

require("experiments", "datasets", "evaluate", "pyarrow", "pooch")
