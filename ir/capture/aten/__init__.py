"""ATen op -> how it is said in our ops. Each function reads the node at hand through the Translator `to`."""

from .contract import TABLE as _contract
from .elementwise import TABLE as _elementwise
from .index import TABLE as _index
from .reduce import TABLE as _reduce
from .shape import TABLE as _shape

ATEN = {**_elementwise, **_shape, **_index, **_reduce, **_contract}
