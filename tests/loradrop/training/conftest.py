"""The folder of models that the tests of generation share."""

from helpers.generation import models as models
