from tests.helpers import double_precision

__all__ = ["double_precision"]
