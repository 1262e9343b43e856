"""lm-eval's own command line, with bundles among its models: it finds no models of other packages by itself."""

from lm_eval.__main__ import cli_evaluate

from .adapter import model_class

if __name__ == "__main__":
    model_class()
    cli_evaluate()
