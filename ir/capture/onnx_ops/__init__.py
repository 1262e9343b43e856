"""ONNX op -> how it is said in our ops. Each function reads the node at hand through the Importer `to`."""

from .constant import TABLE as _constant
from .elementwise import TABLE as _elementwise
from .index import TABLE as _index
from .shape import TABLE as _shape

ONNX = {**_constant, **_elementwise, **_shape, **_index}
