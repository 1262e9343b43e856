"""ATen op -> how it is said in our ops. Each function reads the node at hand through the Translator `to`."""

from .complex import TABLE as COMPLEX
from .complex import is_complex
from .contract import TABLE as _contract
from .conv import TABLE as _conv
from .elementwise import TABLE as _elementwise
from .images import TABLE as _images
from .index import TABLE as _index
from .reduce import TABLE as _reduce
from .shape import TABLE as _shape

ATEN = {**_elementwise, **_shape, **_index, **_reduce, **_contract, **_conv, **_images}
__all__ = ["ATEN", "COMPLEX", "is_complex"]
