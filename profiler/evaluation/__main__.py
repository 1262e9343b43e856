"""lm-eval's own command line, with bundles among its models: by itself it finds no models of other packages."""


def main() -> None:
    from .adapter import model_class

    model_class()
    from lm_eval.__main__ import cli_evaluate

    cli_evaluate()


if __name__ == "__main__":
    main()
