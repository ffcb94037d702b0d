from loradrop.extras import require

require("experiments", "datasets", "pytorch_lightning")
